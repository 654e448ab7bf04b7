/**
 * The feed that a page's HTML describes, as `{% events_feed "orders" %}` writes it:
 *
 *     <script type="module" src="…/events/page.js" data-events data-channels="orders" data-stream="/events/"
 *             data-poll="/events/poll/" data-cursor="1763795005123-0"></script>
 *
 * Modules run in the order of the page, so one that comes later needs no import, and no address:
 *
 *     const { feed } = document.querySelector("[data-events]");
 *     feed.addEventListener("message", (event) => show(event.data));
 *
 * The feed is opened when it is first asked for, so listeners that are added at once miss nothing.
 */

import { openFeed } from "./feed.js";

// Not of this module alone: a page may load it twice, under a hashed name and under the plain one.
const FEED = Symbol.for("events.feed");

/**
 * Returns the feed of an element with `data-channels` and, where wanted, `data-stream`, `data-poll`, `data-cursor`,
 * `data-share` and `data-interval`. The same element always has the same feed.
 *
 * @param {HTMLElement} element
 * @param {import("./feed.js").FeedOptions} [options]  They count before the attributes, in the call that opens the feed.
 * @throws {TypeError} for an element without `data-channels`, and for what `openFeed` does not accept.
 */
export function feedOf(element, options) {
  if (!element?.dataset?.channels) {
    throw new TypeError(`feedOf: takes an element with data-channels, such as {% events_feed %} makes, not ${element}`);
  }
  element[FEED] ??= openFeed({ ...optionsOf(element.dataset), ...options });
  return element[FEED];
}

function optionsOf({ channels, stream, poll, cursor, share, interval }) {
  const options = { channels: channels.trim().split(/\s+/), stream, poll, cursor, share: share === "true" };
  if (interval) options.interval = Number(interval);
  if (!cursor) delete options.cursor;
  return options;
}

for (const element of document.querySelectorAll("script[data-events]")) {
  if (!("feed" in element)) Object.defineProperty(element, "feed", { get: () => feedOf(element) });
}
