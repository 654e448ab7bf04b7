/**
 * Server events for a page, whichever way they can be had: from an event stream, or by polling while a stream does
 * not work. Both read the same log with the same cursor, so changing between them loses nothing and repeats nothing.
 *
 *     const feed = openFeed({ channels: ["orders"] });
 *     feed.addEventListener("message", (event) => show(event.data));
 *     feed.addEventListener("state", (event) => (status.textContent = event.detail.reason));
 *
 * The server's events arrive as a `MessageEvent` of their type, with `data` and `lastEventId`: the id of the event, or
 * "" when it has none (an `EventSource` would repeat an earlier id). The feed adds some of its own, each a `CustomEvent`:
 *
 *   - `state`    how events arrive from now on; `detail` is a {@link StateChange}
 *   - `reset`    events were missed that the server no longer keeps: load afresh what they would have changed
 *   - `traffic`  what this tab asked and received; `detail` is a {@link Traffic}
 *   - `role`     which part this tab has in a feed that tabs share; `detail` is a {@link RoleChange}
 *
 * @typedef {"connecting" | "streaming" | "polling" | "denied" | "closed"} State
 *
 * @typedef {object} StateChange
 * @property {State} state
 * @property {string} reason      In words, for people.
 * @property {number} [retryIn]   Milliseconds until the stream is tried again, where that is planned.
 *
 * @typedef {object} Traffic      Add them up for a total.
 * @property {"stream" | "poll"} via
 * @property {number} requests    1 when a request is made, 0 when something arrives.
 * @property {number} bytes       Received. Of a poll: status line, the headers that a script may see, and body. Of a
 *                                stream: the events delivered, as the format writes them; a script sees no more of it.
 * @property {number} [elapsed]   Milliseconds from asking to the last byte of the answer to a poll.
 * @property {number} [cpu]       Milliseconds of the server's processor for that answer, where `Server-Timing` tells.
 * @property {string} [type]      Of the event that a stream brought.
 *
 * @typedef {object} RoleChange
 * @property {"leader" | "follower" | "alone"} role  Whether this tab reads for the others, is fed by the one that
 *                                does, or reads for itself, as it does without `share`.
 * @property {string} reason      In words, for people.
 *
 * @typedef {object} FeedOptions
 * @property {string | null} [stream]  URL of the event stream; null to poll and nothing else.
 * @property {string} [poll]           URL of the poll view.
 * @property {string[]} [channels]     None: the one that the server gives to those who name none.
 * @property {number} [interval]       Milliseconds between polls.
 * @property {number} [helloTimeout]   Milliseconds that a new stream may take to say hello.
 * @property {{base: number, max: number}} [retry]  Milliseconds. A stream that failed is tried again after a random
 *                                     time of at most `base`, which doubles with each failure up to `max`.
 * @property {string | null} [cursor]  Where to begin: after this event, as another feed's `cursor`, or the server when
 *                                     it made the page, told. null: with what happens next.
 * @property {boolean} [share]         One stream for all tabs of this browser that ask for the same, see share.js.
 *                                     Where a browser cannot, each tab opens its own.
 */

import { FeedSource } from "./feed_source.js";
import { headSize } from "./answers.js";
import { inFull, LONGEST, openReader, RESERVED } from "./reader.js";
import { canShare, shareFeed } from "./share.js";

export { FeedSource, headSize };

/**
 * Opens a feed. It starts when the running script has returned, so listeners that are added at once miss nothing.
 *
 * @param {FeedOptions} [options]
 * @throws {TypeError} for an option that is unknown or out of range; the message says what is accepted.
 */
export function openFeed({
  stream = "/events/",
  poll = "/events/poll/",
  channels = [],
  interval = 5000,
  helloTimeout = 5000,
  retry = { base: 2000, max: 60_000 },
  cursor = null,
  share = false,
  ...unknown
} = {}) {
  for (const name of Object.keys(unknown)) {
    throw new TypeError(
      `openFeed: there is no option ${name}; ` +
        "accepted are stream, poll, channels, interval, helloTimeout, retry, cursor, share",
    );
  }
  if (stream !== null) stream = requireUrl("stream", stream, " or null");
  poll = requireUrl("poll", poll);
  if (!Array.isArray(channels) || !channels.every((name) => name && typeof name === "string")) {
    throw new TypeError('openFeed: channels must be a list of names, such as ["orders"]');
  }
  requireMilliseconds("interval", interval);
  requireMilliseconds("helloTimeout", helloTimeout);
  requireMilliseconds("retry.base", retry?.base);
  requireMilliseconds("retry.max", retry?.max);
  if (cursor !== null && (typeof cursor !== "string" || !cursor)) {
    throw new TypeError(`openFeed: cursor must be the text of one, or null, not ${cursor}`);
  }
  if (share && canShare()) {
    return shareFeed(openFeed, { stream, poll, channels, interval, helloTimeout, retry, cursor }, RESERVED);
  }

  class Feed extends EventTarget {
    /** @returns {State} */
    get state() {
      return reader.state;
    }

    /** The id of the last event seen, or null before there is one. Opaque, so never compared for order. */
    get cursor() {
      return reader.cursor;
    }

    /** Which part this tab has, see {@link RoleChange}. @returns {"joining" | "leader" | "follower" | "alone"} */
    get role() {
      return "alone";
    }

    /** How many tabs of this browser share the feed. @returns {Promise<number>} */
    async tabs() {
      return 1;
    }

    /** Milliseconds between polls. A new value counts from the moment that it is set. */
    get interval() {
      return reader.interval;
    }

    set interval(value) {
      requireMilliseconds("interval", value);
      reader.interval = value;
    }

    /** Listens to the server's events of this type, or to one of the feed's own. */
    addEventListener(type, listener, options) {
      reader.subscribe(type);
      super.addEventListener(type, listener, options);
    }

    /** Drops the stream, if there is one, and tries a new one now. Revives a feed that was denied. */
    reconnect() {
      reader.reconnect();
    }

    /** Ends the feed for good. */
    close() {
      reader.close();
    }
  }

  const feed = new Feed();
  const announce = (type, detail) => feed.dispatchEvent(new CustomEvent(type, { detail }));
  const reader = openReader(
    {
      kind: "log",
      stream,
      poll,
      channels,
      hasClock: !channels.length || channels.includes("clock"),
      credentials: "include", // also where the server is another origin, if it allows that at all
      interval,
      helloTimeout,
      retry,
      cursor,
    },
    {
      event(type, data, id) {
        feed.dispatchEvent(new MessageEvent(type, { data, lastEventId: id, origin: location.origin }));
      },
      state: (state, reason, retryIn) => announce("state", { state, reason, retryIn }),
      reset: (cursor) => announce("reset", { cursor }),
      traffic: (via, requests, bytes, more) => announce("traffic", { via, requests, bytes, ...more }),
    },
  );
  return feed;
}

function requireUrl(name, value, alternative = "") {
  try {
    if (typeof value === "string") return inFull(value);
  } catch {}
  throw new TypeError(`openFeed: ${name} must be a URL${alternative}, not ${value}`);
}

function requireMilliseconds(name, value) {
  if (typeof value === "number" && value >= 1 && value <= LONGEST) return;
  throw new TypeError(`openFeed: ${name} must be a number of milliseconds from 1 to ${LONGEST}, not ${value}`);
}
