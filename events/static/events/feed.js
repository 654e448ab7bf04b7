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
 * @property {string[]} [channels]
 * @property {number} [interval]       Milliseconds between polls.
 * @property {number} [helloTimeout]   Milliseconds that a new stream may take to say hello.
 * @property {{base: number, max: number}} [retry]  Milliseconds. A stream that failed is tried again after a random
 *                                     time of at most `base`, which doubles with each failure up to `max`.
 * @property {string | null} [cursor]  Where to begin: after this event, as another feed's `cursor`, or the server when
 *                                     it made the page, told. null: with what happens next.
 * @property {boolean} [share]         One stream for all tabs of this browser that ask for the same, see share.js.
 *                                     Where a browser cannot, each tab opens its own.
 */

import { canShare, shareFeed } from "./share.js";

/** What the server's streams and the feed say about themselves: never the types of published events. */
const RESERVED = new Set(["hello", "heartbeat", "reset", "drain", "error", "open", "state", "traffic", "role"]);
/** Those of the stream that always have an id: the cursor up to which it has told everything. */
const MARKS = new Set(["hello", "heartbeat", "reset"]);
const SILENCE = 2.5; // heartbeats; one may be late and one lost before a stream counts as dead
const STEADY = 10_000; // ms; a stream that ends sooner has failed, however often it says hello
const POLL_TIMEOUT = 30_000; // ms; without it one answer that never ends would stop the polling for good
const LONGEST = 86_400_000; // ms, one day; beyond 2^31 a browser's timer fires at once
const REFUSALS = new Map([
  [401, "nobody is signed in"],
  [403, "reading this is not allowed"],
  [404, "there is nothing at this address"],
]);

/**
 * Opens a feed. It starts when the running script has returned, so listeners that are added at once miss nothing.
 *
 * @param {FeedOptions} [options]
 * @throws {TypeError} for an option that is unknown or out of range; the message says what is accepted.
 */
export function openFeed({
  stream = "/events/",
  poll = "/events/poll/",
  channels = ["clock"],
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
  if (!Array.isArray(channels) || !channels.length || !channels.every((name) => name && typeof name === "string")) {
    throw new TypeError('openFeed: channels must be a list of one name or more, such as ["clock"]');
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

  /** @type {State} */
  let state = "connecting";

  /** @type {EventSource | null} the stream in use, or the one that is being tried while polling goes on */
  let source = null;
  /** @type {string | null} the cursor that it was opened with */
  let openedAfter = null;
  let greeted = false;
  /** What the source has last told as its id, whether of an event or of a mark. */
  let lastEventId = "";
  let silence = Infinity;
  let failures = 0;
  let retryAt = NaN;

  /** @type {AbortController | null} the poll in flight; there is never a second one */
  let asking = null;
  let notBefore = 0;
  let stumbles = 0;
  let backOff = 0;
  let trouble = "";
  /** @type {Set<string>} the ids, in order, of what polls have delivered since the source was opened */
  const polled = new Set();

  let started = false;
  let suspended = false;
  let pollTimer, retryTimer, silenceTimer, steadyTimer;

  const types = new Set(["message"]);
  const lifetime = new AbortController();

  class Feed extends EventTarget {
    /** @returns {State} */
    get state() {
      return state;
    }

    /** The id of the last event seen, or null before there is one. Opaque, so never compared for order. */
    get cursor() {
      return cursor;
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
      return interval;
    }

    set interval(value) {
      requireMilliseconds("interval", value);
      interval = value;
      if (pollTimer) {
        clearInterval(pollTimer);
        pollTimer = setInterval(ask, interval);
      }
    }

    /** Listens to the server's events of this type, or to one of the feed's own. */
    addEventListener(type, listener, options) {
      subscribe(type);
      super.addEventListener(type, listener, options);
    }

    /** Drops the stream, if there is one, and tries a new one now. Revives a feed that was denied. */
    reconnect() {
      if (state === "closed") return;
      closeStream();
      failures = stumbles = backOff = 0;
      if (state !== "polling") return start("trying a new stream, as asked");
      if (!canStream()) return void ask();
      openStream();
      announce("polling", "trying a new stream meanwhile");
    }

    /** Ends the feed for good. */
    close() {
      if (lifetime.signal.aborted) return;
      lifetime.abort();
      halt();
      announce("closed", "closed, as asked");
    }
  }

  const feed = new Feed();
  // An open stream keeps a page out of the back/forward cache; and a page that waits there should hold none.
  listen("pagehide", suspend);
  listen("pageshow", resume);
  listen("online", retryNow);
  queueMicrotask(() => started || suspended || lifetime.signal.aborted || start("opening the stream"));
  return feed;

  function start(reason) {
    started = true;
    if (stream === null) return startPolling("set to poll, and not to stream");
    if (!canStream()) return startPolling("this browser has no EventSource");
    announce("connecting", reason);
    openStream();
  }

  function suspend() {
    if (state === "denied" || state === "closed") return;
    suspended = true;
    halt();
    announce("closed", "the page was left; on return it goes on from here");
  }

  function resume() {
    if (!suspended) return;
    suspended = false;
    failures = stumbles = backOff = 0;
    start("back on the page, going on from where it was left");
  }

  function retryNow() {
    if (!greeted && (state === "connecting" || state === "polling")) feed.reconnect();
  }

  function halt() {
    closeStream();
    stopPolling();
  }

  function announce(next, reason) {
    state = next;
    const retryIn = Number.isNaN(retryAt) ? undefined : Math.max(0, retryAt - performance.now());
    feed.dispatchEvent(new CustomEvent("state", { detail: { state, reason, retryIn } }));
  }

  function report(via, requests, bytes, more) {
    feed.dispatchEvent(new CustomEvent("traffic", { detail: { via, requests, bytes, ...more } }));
  }

  function listen(type, listener) {
    globalThis.addEventListener(type, listener, { signal: lifetime.signal });
  }

  /** An EventSource delivers only the types that it was asked for, so each goes to this source and to all later ones. */
  function subscribe(type) {
    if (RESERVED.has(type)) return;
    types.add(type);
    source?.addEventListener(type, receive);
  }

  // Streaming

  function canStream() {
    return stream !== null && typeof EventSource !== "undefined";
  }

  /** Opens a stream after the cursor. Polling, where it is under way, goes on until the stream says hello. */
  function openStream() {
    if (lifetime.signal.aborted) return; // by a listener, on hearing that this was about to happen
    retryAt = NaN;
    openedAfter = cursor;
    polled.clear();
    // With cookies also where the server is another origin, if it allows that at all.
    try {
      source = new EventSource(address(stream, "last_event_id"), { withCredentials: true });
    } catch {
      return loseStream("this browser denies an event stream to this page");
    }
    for (const type of [...MARKS, "drain", "error", ...types]) source.addEventListener(type, receive);
    silenceTimer = setTimeout(loseStream, helloTimeout, "the stream says nothing; a proxy on the way may hold it back");
    report("stream", 1, 0);
  }

  function closeStream() {
    source?.close();
    source = null;
    greeted = false;
    lastEventId = "";
    retryAt = NaN;
    clearTimeout(retryTimer);
    clearTimeout(silenceTimer);
    clearTimeout(steadyTimer);
  }

  /**
   * Reconnecting is never left to the EventSource: it comes back after a constant time, so a crowd that was cut off in one
   * moment would return in one moment; and it knows nothing of what polls have brought meanwhile.
   */
  function loseStream(reason) {
    const worked = greeted && failures === 0;
    // Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    const wait = Math.random() * Math.min(retry.max, retry.base * 2 ** failures);
    failures += 1;
    reopenAfter(wait);
    // Most streams that end can be had again at once (a restart, a network change): not worth a round of polling.
    if (worked) announce("connecting", reason);
    else startPolling(reason);
  }

  /** The server ends the stream on purpose, and has given each of its clients another time to come back at. */
  function endStream(wait) {
    if (!(wait >= 0)) return loseStream("the server ended the stream");
    reopenAfter(Math.min(wait, LONGEST));
    const reason = "the server ended the stream, and said when to come back";
    if (wait <= retry.max) announce("connecting", reason);
    else startPolling(reason);
  }

  function reopenAfter(wait) {
    closeStream();
    retryAt = performance.now() + wait;
    retryTimer = setTimeout(openStream, wait);
  }

  function receive(event) {
    if (event.currentTarget !== source) return;
    if (event.type === "error") return loseStream(explain(source.readyState));
    const isNewId = event.lastEventId !== lastEventId;
    const size = frameSize(event, isNewId || MARKS.has(event.type));
    lastEventId = event.lastEventId;
    if (event.type === "drain") endStream(parse(event.data)?.retry);
    else if (event.type === "hello") greet(lastEventId, parse(event.data)?.heartbeat);
    else if (greeted) deliver(event, isNewId);
    report("stream", 0, size, { type: event.type });
  }

  function explain(readyState) {
    if (isOffline()) return OFFLINE;
    if (greeted) return "the stream ended";
    // After an answer that is no event stream an EventSource gives up; after none at all it would try again.
    return readyState === EventSource.CLOSED ? "the server refused the stream" : "the server could not be reached";
  }

  /** `from`: where the stream begins; `heartbeat`: seconds. */
  function greet(from, heartbeat) {
    if (openedAfter === null && cursor !== null && cursor !== from) {
      // A poll has given us a position since this stream was asked for without one: between the two lies a hole.
      closeStream();
      return openStream();
    }
    stopPolling();
    greeted = true;
    cursor ??= from || null; // polls may be ahead of where the stream begins
    if (cursor === from) polled.clear(); // none of them will be replayed
    silence = heartbeat > 0 ? heartbeat * SILENCE * 1000 : Infinity;
    steadyTimer = setTimeout(() => (failures = 0), STEADY);
    watch();
    announce("streaming", "events arrive as they happen");
  }

  function watch() {
    clearTimeout(silenceTimer);
    if (silence > LONGEST) return;
    silenceTimer = setTimeout(loseStream, silence, `nothing arrived for ${Math.round(silence / 1000)} s`);
  }

  /** `isNewId`: an event without an id (a tick) repeats the last one that the stream has told. */
  function deliver({ type, data, lastEventId: id }, isNewId) {
    watch();
    // The replay begins where polling was when this stream was asked for, and polling has gone on since.
    const wasPolled = polled.has(id);
    if (wasPolled) forgetPolled(id);
    if (MARKS.has(type)) {
      // What polls have delivered and the stream has not yet is ahead of the mark.
      if (id === cursor) polled.clear();
      else if (!wasPolled && !polled.size) cursor = id;
      if (type === "reset") lose(cursor);
      return;
    }
    if (isNewId && wasPolled) return;
    if (isNewId) {
      polled.clear();
      cursor = id;
    }
    dispatch(type, data, isNewId ? id : "");
  }

  /** Both readers go through one log in one order, so what precedes a replayed event has been replayed as well. */
  function forgetPolled(id) {
    for (const earlier of polled) {
      polled.delete(earlier);
      if (earlier === id) return;
    }
  }

  function lose(from) {
    cursor = from ?? null;
    feed.dispatchEvent(new CustomEvent("reset", { detail: { cursor } }));
  }

  function dispatch(type, data, id) {
    feed.dispatchEvent(new MessageEvent(type, { data, lastEventId: id, origin: location.origin }));
  }

  // Polling

  function startPolling(reason) {
    announce("polling", reason);
    if (pollTimer || state !== "polling") return;
    pollTimer = setInterval(ask, interval);
    ask();
  }

  function stopPolling() {
    clearInterval(pollTimer);
    pollTimer = undefined;
    asking?.abort();
    asking = null;
    stumbles = backOff = 0;
    trouble = "";
  }

  async function ask() {
    if (asking || performance.now() < Math.max(notBefore, backOff)) return;
    const mine = (asking = new AbortController());
    const timeout = setTimeout(() => mine.abort(), POLL_TIMEOUT);
    const asked = performance.now();
    let more = false;
    report("poll", 1, 0);
    try {
      const options = { cache: "no-store", credentials: "include", signal: mine.signal };
      const response = await fetch(address(poll, "since"), options);
      const body = await response.text();
      if (asking !== mine) return;
      report("poll", 0, answerSize(response, body), { elapsed: performance.now() - asked, cpu: cpuTime(response) });
      if (asking === mine) more = take(mine, response, parse(body));
    } catch {
      if (asking !== mine) return;
      const reason = mine.signal.aborted ? "a poll took too long" : "the server could not be reached";
      stumble(isOffline() ? OFFLINE : reason);
    } finally {
      clearTimeout(timeout);
      if (asking === mine) asking = null;
    }
    if (more && pollTimer) ask();
  }

  /** @returns {boolean} whether there is more to be had at once */
  function take(mine, response, answer) {
    const isOurs = typeof answer?.error === "string" && /^application\/json\b/i.test(response.headers.get("Content-Type"));
    const said = isOurs ? `: ${answer.error}` : "";
    // A proxy has such pages of its own, for one while the server behind it is replaced: that will pass.
    if (isOurs && REFUSALS.has(response.status)) {
      halt();
      announce("denied", `${REFUSALS.get(response.status)} (${response.status})${said}`);
      return false;
    }
    if (!response.ok || !Array.isArray(answer?.events)) {
      notBefore = performance.now() + retryAfter(response);
      stumble(response.ok ? "a poll was answered with something else" : `a poll was answered ${response.status}${said}`);
      return false;
    }
    stumbles = backOff = 0;
    if (trouble) {
      trouble = "";
      announce("polling", "polling works again");
    }
    if (answer.gap) lose(answer.cursor);
    for (const { id, type, data } of answer.events) {
      if (asking !== mine) return false; // a listener has ended the feed
      if (source) polled.add(id);
      cursor = id;
      // It may come by stream next, to be recognised there; and unheard it would count as silence.
      subscribe(type);
      dispatch(type, data, id);
    }
    if (asking !== mine) return false;
    cursor = answer.cursor;
    // No ticks while polling: the time of the answer stands in for the one that a stream would have brought.
    if (channels.includes("clock")) dispatch("message", answer.server_time, "");
    return answer.more === true;
  }

  function stumble(reason) {
    if (reason !== trouble) announce("polling", `${reason}; asking again`);
    trouble = reason;
    stumbles += 1;
    backOff = performance.now() + Math.random() * Math.min(retry.max, interval * 2 ** stumbles);
  }

  function address(base, cursorName) {
    const url = new URL(base);
    for (const channel of channels) url.searchParams.append("channel", channel);
    if (cursor !== null) url.searchParams.set(cursorName, cursor);
    return url.href;
  }
}

/** The URL in full: relative ones are the document's, as in its links, so its <base> counts. */
function requireUrl(name, value, alternative = "") {
  try {
    if (typeof value === "string") return new URL(value, globalThis.document?.baseURI ?? location.href).href;
  } catch {}
  throw new TypeError(`openFeed: ${name} must be a URL${alternative}, not ${value}`);
}

function requireMilliseconds(name, value) {
  if (typeof value === "number" && value >= 1 && value <= LONGEST) return;
  throw new TypeError(`openFeed: ${name} must be a number of milliseconds from 1 to ${LONGEST}, not ${value}`);
}

const OFFLINE = "this browser is offline";
const isOffline = () => globalThis.navigator?.onLine === false;

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Milliseconds that the server says an answer took its processor (https://www.w3.org/TR/server-timing/). */
function cpuTime(response) {
  const [, duration] = response.headers.get("Server-Timing")?.match(/\bcpu;dur=([\d.]+)/) ?? [];
  return duration && Number(duration);
}

/** Milliseconds, RFC 9110 10.2.3: a number of seconds or a date. */
function retryAfter(response) {
  const value = response.headers.get("Retry-After") ?? "";
  return Number(value) * 1000 || Date.parse(value) - Date.now() || 0;
}

const encoder = new TextEncoder();

/** Bytes of an event on the wire. */
function frameSize({ type, data, lastEventId }, hasId) {
  const fields = data.split("\n").map((line) => `data: ${line}\n`);
  if (type !== "message") fields.unshift(`event: ${type}\n`);
  if (hasId) fields.unshift(`id: ${lastEventId}\n`);
  return encoder.encode(fields.join("") + "\n").length;
}

/** Bytes of an answer to a poll, of which `Content-Length` also tells what compression has saved. */
function answerSize(response, body) {
  return headSize(response) + (Number(response.headers.get("Content-Length")) || encoder.encode(body).length);
}

/**
 * Bytes of the head of a response, written as HTTP/1.1, as far as a script may see it. A feed cannot see that of its
 * stream: to count it as well, ask for it with HEAD, which opens no stream.
 *
 * @param {Response} response
 */
export function headSize(response) {
  let head = `HTTP/1.1 ${response.status} ${response.statusText}\r\n`;
  for (const [name, value] of response.headers) {
    if (name !== "server-timing") head += `${name}: ${value}\r\n`; // what tells of costs should not add to them
  }
  return encoder.encode(`${head}\r\n`).length;
}
