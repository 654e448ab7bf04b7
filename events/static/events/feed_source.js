/**
 * An `EventSource` that still works where a stream does not: the same interface, with polls of the same URL behind it.
 *
 *     const source = new FeedSource("/orders/7/status/");
 *     source.onmessage = (event) => show(JSON.parse(event.data));
 *
 * Of a live view each answer that differs from the one before is a `message`: `data` is its body, `lastEventId` its ETag.
 * Of a stream of events, such as "/events/?channel=orders", each event is told once, as with an `EventSource`.
 *
 * What is better than an `EventSource`: it polls while a stream is refused, held back by a proxy, silent or cut, and
 * goes on trying; a crowd that was cut off in one moment does not return in one moment; a connection that died unnoticed
 * is noticed; a page in the back/forward cache holds none. `readyState` is OPEN also while polls are answered. It is
 * CLOSED when the server has said that this visitor may not read, or that there is nothing here: 401, 403 and 404.
 *
 * @typedef {object} FeedSourceOptions
 * @property {boolean} [withCredentials]  Send cookies to another origin, too.
 * @property {number} [interval]          Milliseconds between polls, while it has to poll.
 * @property {number} [helloTimeout]      Milliseconds that a new stream may take to say hello.
 * @property {{base: number, max: number}} [retry]  Milliseconds. A stream that failed is tried again after a random
 *                                        time of at most `base`, which doubles with each failure up to `max`.
 */

import { inFull, LONGEST, openReader } from "./reader.js";

const CONNECTING = 0;
const OPEN = 1;
const CLOSED = 2;

export class FeedSource extends EventTarget {
  /** @type {string} */
  #url;
  #withCredentials;
  #readyState = CONNECTING;
  #lastEventId = "";
  /** @type {ReturnType<typeof openReader>} */
  #reader;
  /** @type {Map<string, {handler: Function | object | null, listener: (event: Event) => void}>} by type: those of on… */
  #handlers = new Map();

  /**
   * @param {string | URL} url  Relative to the document.
   * @param {FeedSourceOptions} [options]
   * @throws {DOMException} SyntaxError, when the URL is none.
   * @throws {TypeError} for milliseconds that are out of range.
   */
  constructor(url, options) {
    super();
    if (!arguments.length) throw new TypeError("FeedSource: a URL is required");
    try {
      this.#url = inFull(url);
    } catch {
      throw new DOMException(`FeedSource: ${url} is no URL`, "SyntaxError");
    }
    const { interval = 5000, helloTimeout = 5000, retry = { base: 2000, max: 60_000 } } = options ?? {};
    for (const [name, value] of Object.entries({ interval, helloTimeout, base: retry.base, max: retry.max })) {
      if (typeof value === "number" && value >= 1 && value <= LONGEST) continue;
      throw new TypeError(`FeedSource: ${name} must be a number of milliseconds from 1 to ${LONGEST}, not ${value}`);
    }
    this.#withCredentials = Boolean(options?.withCredentials);
    const channels = new URL(this.#url).searchParams.getAll("channel");
    this.#reader = openReader(
      {
        kind: "unknown",
        stream: this.#url,
        poll: pollUrl(this.#url),
        hasClock: !channels.length || channels.includes("clock"),
        credentials: this.#withCredentials ? "include" : "same-origin",
        interval,
        helloTimeout,
        retry,
        cursor: null,
      },
      {
        event: (type, data, id) => this.#tell(type, data, id),
        mark: (type, data, id) => this.#tell(type, data, id),
        reset: (cursor) => this.#tell("reset", JSON.stringify({ cursor }), cursor ?? ""),
        state: (state) => this.#change(state),
        answered: () => this.#open(),
      },
    );
  }

  get url() {
    return this.#url;
  }

  /** @returns {0 | 1 | 2} */
  get readyState() {
    return this.#readyState;
  }

  get withCredentials() {
    return this.#withCredentials;
  }

  /** @type {((event: Event) => void) | null} */
  get onopen() {
    return this.#handler("open");
  }

  set onopen(handler) {
    this.#handle("open", handler);
  }

  /** @type {((event: MessageEvent<string>) => void) | null} */
  get onmessage() {
    return this.#handler("message");
  }

  set onmessage(handler) {
    this.#handle("message", handler);
  }

  /** @type {((event: Event) => void) | null} */
  get onerror() {
    return this.#handler("error");
  }

  set onerror(handler) {
    this.#handle("error", handler);
  }

  /**
   * Listens to events of this type: "message", "open", "error", one that was published, or what a stream says of
   * itself ("hello", "heartbeat", "reset", "drain").
   *
   * @param {string} type
   * @param {EventListenerOrEventListenerObject | null} listener
   * @param {AddEventListenerOptions | boolean} [options]
   */
  addEventListener(type, listener, options) {
    super.addEventListener(type, listener, options);
    this.#reader.subscribe(String(type));
  }

  /** Ends it for good. */
  close() {
    this.#readyState = CLOSED;
    this.#reader.close();
  }

  #change(state) {
    if (this.#readyState === CLOSED) return;
    if (state === "streaming") return this.#open();
    if (state === "denied") {
      this.close();
      return this.#fire("error");
    }
    // While polls are answered it does no harm that a stream was tried in vain.
    if (state === "polling" && this.#reader.isAnswered) return;
    const isNews = this.#readyState === OPEN || this.#reader.trouble !== "";
    this.#readyState = CONNECTING;
    if (state !== "closed" && isNews) this.#fire("error"); // a page that was left hears of it by pagehide
  }

  #open() {
    if (this.#readyState !== CONNECTING) return;
    this.#readyState = OPEN;
    this.#fire("open");
  }

  #fire(type) {
    this.dispatchEvent(new Event(type));
  }

  /** An event without an id repeats the last one, WHATWG HTML 9.2.6. */
  #tell(type, data, id) {
    if (this.#readyState === CLOSED) return;
    if (id) this.#lastEventId = id;
    const { origin } = new URL(this.#url);
    this.dispatchEvent(new MessageEvent(type, { data, lastEventId: this.#lastEventId, origin }));
  }

  #handler(type) {
    return this.#handlers.get(type)?.handler ?? null;
  }

  /** An event handler has its turn where it was first set, WHATWG HTML 8.1.8.1. */
  #handle(type, handler) {
    if (typeof handler !== "function" && (typeof handler !== "object" || handler === null)) handler = null;
    const entry = this.#handlers.get(type);
    if (entry && handler) {
      entry.handler = handler;
    } else if (entry) {
      this.removeEventListener(type, entry.listener);
      this.#handlers.delete(type);
    } else if (handler) {
      const own = { handler, listener: (event) => typeof own.handler === "function" && own.handler.call(this, event) };
      this.#handlers.set(type, own);
      this.addEventListener(type, own.listener);
    }
  }
}

for (const [name, value] of Object.entries({ CONNECTING, OPEN, CLOSED })) {
  for (const object of [FeedSource, FeedSource.prototype]) Object.defineProperty(object, name, { value, enumerable: true });
}

/** The poll view is below the stream, and reads the same channels. */
function pollUrl(stream) {
  const url = new URL(stream);
  url.pathname = `${url.pathname.replace(/\/$/, "")}/poll/`;
  url.hash = "";
  return url.href;
}
