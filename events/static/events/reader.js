/**
 * Reads one address of the server: by stream where that can be had, and by polls meanwhile. `openFeed` and `FeedSource`
 * are what a page sees of it.
 *
 * There are two kinds of address:
 *
 *   - a `log` of events, which has a poll view beside it. A cursor says where a reader is in it, so nothing is lost or
 *     told twice between one way of reading and the other.
 *   - a `state`, the answer of a live view: one URL for the stream and the polls. Only the newest counts, and its ETag
 *     says whether a reader has been told it.
 *
 * A stream that does not say hello is another server's: it is `plain`, told as it comes, and has no polls.
 *
 * @typedef {"connecting" | "streaming" | "polling" | "denied" | "closed"} State
 *
 * @typedef {object} ReaderOptions
 * @property {"log" | "unknown"} kind     An unknown one is found out: by the stream's hello, or by what a poll is answered.
 * @property {string | null} stream       URLs in full.
 * @property {string} poll                Of a log's poll view.
 * @property {string[]} [channels]        Added to both URLs.
 * @property {boolean} hasClock           The time of a poll's answer is told, in place of the clock's ticks.
 * @property {RequestCredentials} credentials
 * @property {number} interval            Milliseconds, as all of these.
 * @property {number} helloTimeout
 * @property {{base: number, max: number}} retry
 * @property {string | null} cursor
 *
 * @typedef {object} Told  What the reader calls.
 * @property {(type: string, data: string, id: string) => void} event    `id` is "" for an event that has none.
 * @property {(state: State, reason: string, retryIn?: number) => void} state
 * @property {(cursor: string | null) => void} reset    Events were missed that the server no longer keeps.
 * @property {(type: string, data: string, id: string) => void} [mark]  What the stream said of itself.
 * @property {() => void} [answered]                    A poll was answered in good order.
 * @property {(via: "stream" | "poll", requests: number, bytes: number, more?: object) => void} [traffic]
 */

import { answerSize, cpuTime, frameSize, isEventStream, isJson, parse, retryAfter } from "./answers.js";

/** What the server's streams and the feed say about themselves: never the types of published events. */
export const RESERVED = new Set(["hello", "heartbeat", "reset", "drain", "error", "open", "state", "traffic", "role"]);
/** Those of the stream that always have an id, in a log: the cursor up to which it has told everything. */
const MARKS = new Set(["hello", "heartbeat", "reset"]);
const SILENCE = 2.5; // heartbeats; one may be late and one lost before a stream counts as dead
const STEADY = 10_000; // ms; a stream that ends sooner has failed, however often it says hello
const POLL_TIMEOUT = 30_000; // ms; without it one answer that never ends would stop the polling for good
const PROBE_TIMEOUT = 10_000; // ms; the same while it is unknown which address answers polls
export const LONGEST = 86_400_000; // ms, one day; beyond 2^31 a browser's timer fires at once
const REFUSALS = new Map([
  [401, "nobody is signed in"],
  [403, "reading this is not allowed"],
  [404, "there is nothing at this address"],
]);
const OFFLINE = "this browser is offline";

const isOurs = (response, answer) => typeof answer?.error === "string" && isJson(response);
const said = (response, answer) => (isOurs(response, answer) ? `: ${answer.error}` : "");
/** A proxy has such pages of its own, for one while the server behind it is replaced: that will pass. */
const isRefusal = (response, answer) => isOurs(response, answer) && REFUSALS.has(response.status);
/** A live view marks what it answers. Not so the pages of a proxy, nor a page to which a request was redirected. */
const isOfLiveView = (response) => /(^|,)\s*accept\s*(,|$)/i.test(response.headers.get("Vary") ?? "");
/** What Django's `login_required` leads to. */
const isSignIn = ({ redirected, url }) => redirected && new URL(url).searchParams.has("next");
const isOffline = () => globalThis.navigator?.onLine === false;

/** The URL in full: relative ones are the document's, as in its links, so its <base> counts. Throws for what is none. */
export const inFull = (url) => new URL(url, globalThis.document?.baseURI ?? location.href).href;

/**
 * Opens a reader. It starts when the running script has returned.
 *
 * @param {ReaderOptions} options
 * @param {Told} told
 */
export function openReader(
  { kind, stream, poll, channels = [], hasClock, credentials, interval, helloTimeout, retry, cursor },
  told,
) {
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
  let isAnswered = false;
  /** @type {Set<string>} the ids, in order, of what polls have delivered since the source was opened */
  const polled = new Set();

  let started = false;
  let suspended = false;
  let pollTimer, retryTimer, silenceTimer, steadyTimer;

  const types = new Set(["message"]);
  const lifetime = new AbortController();

  /** The ETag and the text of the state that was told last, and whether there was one. */
  let newest = { tag: "", text: "", isKnown: false };

  const reader = {
    /** @returns {State} */
    get state() {
      return state;
    },

    /** The id of the last event seen, or null before there is one. */
    get cursor() {
      return cursor;
    },

    /** Why the last poll failed, in words; empty when it did not. */
    get trouble() {
      return trouble;
    },

    /** Whether polls are answered just now, in good order. */
    get isAnswered() {
      return isAnswered;
    },

    get interval() {
      return interval;
    },

    set interval(value) {
      interval = value;
      if (pollTimer) {
        clearInterval(pollTimer);
        pollTimer = setInterval(ask, interval);
      }
    },

    subscribe,
    reconnect,

    /** Ends the reader for good. */
    close() {
      if (lifetime.signal.aborted) return;
      lifetime.abort();
      halt();
      announce("closed", "closed, as asked");
    },
  };

  // An open stream keeps a page out of the back/forward cache; and a page that waits there should hold none.
  listen("pagehide", suspend);
  listen("pageshow", resume);
  listen("online", retryNow);
  queueMicrotask(() => started || suspended || lifetime.signal.aborted || start("opening the stream"));
  return reader;

  function start(reason) {
    started = true;
    if (stream === null) return startPolling("set to poll, and not to stream");
    if (!canStream()) return startPolling("this browser has no EventSource");
    announce("connecting", reason);
    openStream();
  }

  /** Drops the stream, if there is one, and tries a new one now. Revives a reader that was denied. */
  function reconnect() {
    if (state === "closed") return;
    closeStream();
    failures = stumbles = backOff = 0;
    if (state !== "polling") return start("trying a new stream, as asked");
    if (!canStream()) return void ask();
    openStream();
    announce("polling", "trying a new stream meanwhile");
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
    if (!greeted && (state === "connecting" || state === "polling")) reconnect();
  }

  function halt() {
    closeStream();
    stopPolling();
  }

  function announce(next, reason) {
    state = next;
    const retryIn = Number.isNaN(retryAt) ? undefined : Math.max(0, retryAt - performance.now());
    told.state(state, reason, retryIn);
  }

  function report(via, requests, bytes, more) {
    told.traffic?.(via, requests, bytes, more);
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
    try {
      source = new EventSource(address(stream, "last_event_id"), { withCredentials: credentials === "include" });
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
    if (worked || kind === "plain") announce("connecting", reason);
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
    // An error with data is an event that another server has sent under that name.
    if (event.type === "error" && !("data" in event)) return loseStream(explain(source.readyState));
    const isNewId = event.lastEventId !== lastEventId;
    const size = told.traffic ? frameSize(event, isNewId || MARKS.has(event.type)) : 0;
    lastEventId = event.lastEventId;
    if (event.type === "drain") bid(event);
    else if (event.type === "hello") greet(event, parse(event.data));
    else if (kind === "plain" || kind === "unknown") deliverPlain(event);
    else if (greeted && kind === "state") deliverState(event);
    else if (greeted) deliver(event, isNewId);
    report("stream", 0, size, { type: event.type });
  }

  function explain(readyState) {
    if (isOffline()) return OFFLINE;
    if (greeted) return "the stream ended";
    // After an answer that is no event stream an EventSource gives up; after none at all it would try again.
    return readyState === EventSource.CLOSED ? "the server refused the stream" : "the server could not be reached";
  }

  function bid(event) {
    mark(event);
    if (source) endStream(parse(event.data)?.retry);
  }

  /** `heartbeat`: seconds. The id says where a stream of a log begins; a state has no position. */
  function greet(event, greeting) {
    const from = event.lastEventId;
    const heartbeat = greeting?.heartbeat;
    if (kind === "unknown" || kind === "plain") kind = greeting && "cursor" in greeting ? "log" : "state";
    if (kind === "log" && openedAfter === null && cursor !== null && cursor !== from) {
      // A poll has given us a position since this stream was asked for without one: between the two lies a hole.
      closeStream();
      return openStream();
    }
    stopPolling();
    greeted = true;
    if (kind === "log") {
      cursor ??= from || null; // polls may be ahead of where the stream begins
      if (cursor === from) polled.clear(); // none of them will be replayed
    }
    silence = heartbeat > 0 ? heartbeat * SILENCE * 1000 : Infinity;
    steadyTimer = setTimeout(() => (failures = 0), STEADY);
    watch();
    announce("streaming", "events arrive as they happen");
    mark(event);
  }

  function watch() {
    clearTimeout(silenceTimer);
    if (silence > LONGEST) return;
    silenceTimer = setTimeout(loseStream, silence, `nothing arrived for ${Math.round(silence / 1000)} s`);
  }

  function mark({ type, data, lastEventId: id }) {
    if (!lifetime.signal.aborted) told.mark?.(type, data, id);
  }

  /** `isNewId`: an event without an id (a tick) repeats the last one that the stream has told. */
  function deliver(event, isNewId) {
    const { type, data, lastEventId: id } = event;
    watch();
    // The replay begins where polling was when this stream was asked for, and polling has gone on since.
    const wasPolled = polled.has(id);
    if (wasPolled) forgetPolled(id);
    if (MARKS.has(type)) {
      // What polls have delivered and the stream has not yet is ahead of the mark.
      if (id === cursor) polled.clear();
      else if (!wasPolled && !polled.size) cursor = id;
      if (type === "reset") lose(cursor);
      else mark(event);
      return;
    }
    if (isNewId && wasPolled) return;
    if (isNewId) {
      polled.clear();
      cursor = id;
    }
    told.event(type, data, isNewId ? id : "");
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
    told.reset(cursor);
  }

  function deliverPlain(event) {
    if (!greeted) {
      kind = "plain";
      stopPolling();
      greeted = true;
      silence = Infinity;
      steadyTimer = setTimeout(() => (failures = 0), STEADY);
      announce("streaming", "events arrive as they happen");
    }
    watch();
    told.event(event.type, event.data, event.lastEventId);
  }

  function deliverState(event) {
    watch();
    if (MARKS.has(event.type)) mark(event);
    else if (event.type === "message") show(event.data, event.lastEventId);
    else told.event(event.type, event.data, event.lastEventId);
  }

  /** Tells a state, unless it is what was told last: both ways of reading begin with the present one. */
  function show(text, tag) {
    // The format of the stream knows one kind of line break, and compression on the way makes a tag a weak one.
    const next = { tag: tag.replace(/^W\//, ""), text: text.replace(/\r\n?/g, "\n"), isKnown: true };
    const isNew = !newest.isKnown || (next.text !== newest.text && !(next.tag && next.tag === newest.tag));
    newest = next;
    if (isNew) told.event("message", text, tag);
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
    isAnswered = false;
  }

  async function ask() {
    if (asking || performance.now() < Math.max(notBefore, backOff)) return;
    const mine = (asking = new AbortController());
    let more = false;
    try {
      if (kind === "log") more = await askLog(mine);
      else await askState(mine);
    } catch (error) {
      if (asking !== mine) return;
      const reason = error.name === "AbortError" ? "a poll took too long" : "the server could not be reached";
      stumble(isOffline() ? OFFLINE : reason);
    } finally {
      if (asking === mine) asking = null;
    }
    if (more && pollTimer) ask();
  }

  /** @returns {Promise<{response: Response, body: string} | null>} null when this poll is no longer wanted */
  async function request(mine, url, headers = {}, timeout = POLL_TIMEOUT) {
    const asked = performance.now();
    const attempt = new AbortController();
    const abort = () => attempt.abort();
    const timer = setTimeout(abort, timeout);
    mine.signal.addEventListener("abort", abort);
    report("poll", 1, 0);
    try {
      const response = await fetch(url, { cache: "no-store", credentials, headers, signal: attempt.signal });
      if (isEventStream(response)) {
        response.body?.cancel();
        return asking === mine ? { response, body: "" } : null;
      }
      const body = await response.text();
      if (asking !== mine) return null;
      report("poll", 0, answerSize(response, body), { elapsed: performance.now() - asked, cpu: cpuTime(response) });
      return asking === mine ? { response, body } : null;
    } finally {
      clearTimeout(timer);
      mine.signal.removeEventListener("abort", abort);
    }
  }

  /** @returns {Promise<boolean>} whether there is more to be had at once */
  async function askLog(mine) {
    const answered = await request(mine, address(poll, "since"));
    return answered !== null && take(mine, answered.response, parse(answered.body));
  }

  /** Asks a live view as a page would that knows nothing of streams; and finds out whether it is one. */
  async function askState(mine) {
    const isOwn = new URL(stream).origin === location.origin; // of others scripts may not see the tag
    const headers = isOwn && newest.tag ? { "If-None-Match": newest.tag } : {};
    const timeout = kind === "state" ? POLL_TIMEOUT : PROBE_TIMEOUT;
    let failure;
    const answered = await request(mine, stream, headers, timeout).catch((error) => void (failure = error));
    if (asking !== mine) return;
    if (failure && kind === "state") throw failure;
    if (answered && takeState(answered)) return;
    // A log's stream may be refused or held back just now, and its poll view is there all the same.
    const second = await request(mine, address(poll, "since"), {}, PROBE_TIMEOUT);
    if (!second) return;
    const isLog = second.response.ok && Array.isArray(parse(second.body)?.events);
    if (!isLog && failure) throw failure;
    if (!isLog) return fail(answered.response, parse(answered.body));
    kind = "log";
    if (take(mine, second.response, parse(second.body))) backOff = 0;
  }

  /** @returns {boolean} whether the answer is of a live view, or final: false when it may be a log's stream that said it */
  function takeState({ response, body }) {
    const isMarked = isOfLiveView(response);
    const answer = parse(body);
    if (response.status === 304) {
      recover();
    } else if (response.status === 200 && (isMarked || (isJson(response) && !response.redirected))) {
      kind = "state";
      recover();
      show(body, response.headers.get("ETag") ?? "");
    } else if (isEventStream(response)) {
      if (kind !== "state") return false;
      stumble("a poll was answered with a stream");
    } else if (isRefusal(response, answer) || (isMarked && REFUSALS.has(response.status))) {
      deny(response, answer);
    } else if (isSignIn(response)) {
      halt();
      announce("denied", "nobody is signed in, and the server asks for that");
    } else if (kind === "state") {
      fail(response, answer);
    } else {
      return false;
    }
    return true;
  }

  function deny(response, answer) {
    halt();
    announce("denied", `${REFUSALS.get(response.status)} (${response.status})${said(response, answer)}`);
  }

  function fail(response, answer) {
    notBefore = performance.now() + retryAfter(response);
    const status = `a poll was answered ${response.status}${said(response, answer)}`;
    stumble(response.ok ? "a poll was answered with something else" : status);
  }

  function recover() {
    isAnswered = true;
    stumbles = backOff = 0;
    if (trouble) {
      trouble = "";
      announce("polling", "polling works again");
    }
    told.answered?.();
  }

  /** @returns {boolean} whether there is more to be had at once */
  function take(mine, response, answer) {
    if (isRefusal(response, answer)) {
      deny(response, answer);
      return false;
    }
    if (!response.ok || !Array.isArray(answer?.events)) {
      fail(response, answer);
      return false;
    }
    recover();
    if (answer.gap) lose(answer.cursor);
    for (const { id, type, data } of answer.events) {
      if (asking !== mine) return false; // a listener has ended the feed
      if (source) polled.add(id);
      cursor = id;
      // It may come by stream next, to be recognised there; and unheard it would count as silence.
      subscribe(type);
      told.event(type, data, id);
    }
    if (asking !== mine) return false;
    cursor = answer.cursor;
    // No ticks while polling: the time of the answer stands in for the one that a stream would have brought.
    if (hasClock) told.event("message", answer.server_time, "");
    return answer.more === true;
  }

  function stumble(reason) {
    const isNews = reason !== trouble;
    trouble = reason;
    isAnswered = false;
    if (isNews) announce("polling", `${reason}; asking again`);
    stumbles += 1;
    backOff = performance.now() + Math.random() * Math.min(retry.max, interval * 2 ** stumbles);
  }

  function address(base, cursorName) {
    if (kind !== "log" && base === stream) return base;
    const url = new URL(base);
    for (const channel of channels) url.searchParams.append("channel", channel);
    if (cursor !== null) url.searchParams.set(cursorName, cursor);
    return url.href;
  }
}
