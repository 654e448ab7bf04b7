/**
 * One feed for all tabs of a browser: one of them, the leader, reads, and the others are fed by it.
 *
 * Over HTTP/1.1 a browser opens six connections to a site, all tabs together, so a seventh tab with a stream of its own
 * would hang. Who leads is decided by a Web Lock, which the browser passes on when the leader's tab is closed or has
 * crashed. What the leader reads goes out through a BroadcastChannel, and every tab notes the cursor: whoever leads
 * next goes on from there.
 *
 *   - A frozen tab keeps its lock. So followers that hear nothing ask whether the leader is there, and when nobody
 *     answers one of them takes the lock away.
 *   - A leader that thaws may not know yet that it was replaced. Each term of leadership is greater than the one
 *     before, and what is said in a lesser one is not heard.
 *   - A follower may be ahead of a new leader, which had not yet heard all that the old one said: it recognises what it
 *     has seen. Or it may be behind, back from the back/forward cache: then it reads by itself until they meet.
 */

const QUIET = 2000; // ms without a word from the leader, and up to twice that, so that not all tabs ask at once
const ANSWER = 2000; // ms; a tab in the background answers at once, however much its timers are slowed
const REMEMBERED = 10_000; // positions: as many events as a server keeps by default

/**
 * Whether this browser has what sharing takes, in this context: there are Web Locks only over https and on localhost. It
 * may deny them all the same, as to a page in a sandbox: then the tab reads for itself.
 */
export function canShare() {
  try {
    return Boolean(globalThis.navigator?.locks) && typeof BroadcastChannel !== "undefined";
  } catch {
    return false;
  }
}

/**
 * @param {(options: object) => EventTarget} open  Opens a feed for this tab alone.
 * @param {object} options         What it is opened with; the URLs in full.
 * @param {Set<string>} reserved   Types of the feed's own events, which are no published ones.
 */
export function shareFeed(open, options, reserved) {
  const name = `events ${JSON.stringify([options.stream, options.poll, [...options.channels].sort()])}`;
  const me = Math.random();

  /** @type {"joining" | "leader" | "follower" | "alone"} */
  let role = "joining";
  let change = { state: "connecting", reason: "asking the other tabs of this browser" };
  let { cursor, interval } = options;
  /** What any tab listens to: whoever leads next has to hear all of it from the first moment on. */
  const types = new Set(["message"]);
  /** The positions where this tab has been, the last ones. */
  const seen = new Set(cursor === null ? [] : [cursor]);
  /**
   * The id of the last event that this tab has been told, or where it began. The cursor also moves with what happens in other
   * channels, so two tabs that have been told the same events may differ in their cursors, and not in this.
   */
  let mark = cursor;

  /** @type {BroadcastChannel | null} */
  let channel = null;
  let release = () => {};
  /** The hold on the lock by which this tab leads. */
  let tenure = null;
  let queue = new AbortController();
  let quietTimer;
  /** When the leader that this tab knows has begun; of two that began together one has the greater `by`. */
  let term = { began: 0, by: 0 };

  /** @type {EventTarget | null} the feed of this tab alone, when it leads or is behind the leader */
  let own = null;
  /** The leader's mark when this tab found that it is behind, and the durable events that the leader has told since. */
  let meeting = null;
  let held = [];
  /** Where the leader was when it said something last. */
  let theirPosition = { place: null, mark: null };
  /** What the leader said last of its connection. */
  let theirs = change;

  let isHere = false; // as opposed to: not started, left, or closed
  let isAway = false; // in the back/forward cache
  const lifetime = new AbortController();

  class SharedFeed extends EventTarget {
    get state() {
      return change.state;
    }

    get cursor() {
      return cursor;
    }

    get role() {
      return role;
    }

    get interval() {
      return interval;
    }

    set interval(value) {
      if (own) own.interval = value;
      interval = value;
    }

    addEventListener(type, listener, listenerOptions) {
      subscribe(type);
      super.addEventListener(type, listener, listenerOptions);
    }

    async tabs() {
      if (!channel) return 1;
      const locks = await navigator.locks.query();
      // Each tab has the lock or waits for it, so those that crashed are not counted, and those that are frozen are.
      return [...locks.held, ...locks.pending].filter((lock) => lock.name === name).length;
    }

    reconnect() {
      if (own) own.reconnect();
      else tell({ kind: "reconnect" });
    }

    close() {
      if (lifetime.signal.aborted) return;
      lifetime.abort();
      leave("closed, as asked");
    }
  }

  const feed = new SharedFeed();
  // In the back/forward cache a page can neither lead nor listen, and a lock or a channel might keep it out of there.
  listen("pagehide", () => {
    isAway = true;
    leave("the page was left; on return it goes on from here");
  });
  // Also told of a page that has just been loaded: before the start below or after it.
  listen("pageshow", () => {
    isAway = false;
    join();
  });
  queueMicrotask(join);
  return feed;

  function listen(type, listener) {
    globalThis.addEventListener(type, listener, { signal: lifetime.signal });
  }

  function announce(next) {
    change = next;
    feed.dispatchEvent(new CustomEvent("state", { detail: next }));
  }

  function become(next, reason) {
    role = next;
    feed.dispatchEvent(new CustomEvent("role", { detail: { role, reason } }));
  }

  function subscribe(type) {
    if (reserved.has(type) || types.has(type)) return;
    types.add(type);
    own?.addEventListener(type, receiveOwn);
    tell({ kind: "types", types: [type] });
  }

  // Coming and going

  function join() {
    if (isHere || isAway || lifetime.signal.aborted) return;
    isHere = true;
    try {
      channel = new BroadcastChannel(name);
    } catch {
      return readAlone("this browser denies a BroadcastChannel to this page");
    }
    channel.onmessage = ({ data }) => (data.term ? receive(data) : respond(data));
    announce({ state: "connecting", reason: "asking the other tabs of this browser" });
    if (isHere) lookForLeader(); // a listener may have closed it
  }

  function leave(reason) {
    isHere = false;
    closeOwn();
    stopSharing();
    announce({ state: "closed", reason });
  }

  function stopSharing() {
    clearTimeout(quietTimer);
    channel?.close();
    channel = null;
    queue.abort();
    tenure = null;
    release();
  }

  /** For as long as this page is shown: what a browser denies it will deny again. */
  function readAlone(reason) {
    stopSharing();
    [meeting, held] = [null, []];
    become("alone", reason);
    if (isHere && !own) openOwn();
  }

  function lookForLeader() {
    role = "joining";
    tell({ kind: "types", types: [...types] });
    expectLeader();
    queue = new AbortController();
    hold({ signal: queue.signal }, "no other tab holds the stream");
  }

  function expectLeader() {
    clearTimeout(quietTimer);
    quietTimer = setTimeout(askForLeader, QUIET * (1 + Math.random()));
  }

  function askForLeader() {
    tell({ kind: "ask" });
    quietTimer = setTimeout(replaceLeader, ANSWER);
  }

  function replaceLeader() {
    queue.abort();
    hold({ steal: true }, "the tab that held the stream does not answer");
  }

  async function hold(how, reason) {
    const mine = {};
    const joined = channel;
    try {
      await navigator.locks.request(name, how, () => {
        if (channel !== joined || how.signal?.aborted) return undefined;
        tenure = mine;
        lead(reason);
        return new Promise((resolve) => (release = resolve));
      });
    } catch {
      if (tenure === mine) stepDown(); // another tab has taken the lock away
      else if (channel === joined && !how.signal?.aborted) readAlone("this browser denies Web Locks to this page");
    }
  }

  /** Says something to all other tabs. */
  function tell(message) {
    channel?.postMessage(message);
  }

  /** Answers what any tab may say. */
  function respond({ kind, types: more = [] }) {
    more.forEach((type) => {
      types.add(type);
      own?.addEventListener(type, receiveOwn); // a second time does nothing
    });
    if (role !== "leader") return;
    if (kind === "reconnect") own.reconnect();
    else say({ kind: "here", types: [...types], change });
  }

  // Leading

  function lead(reason) {
    clearTimeout(quietTimer);
    // All tabs have one clock. If it was set back, this may be ignored once; then nobody answers, and the next is not.
    term = { began: Math.max(Date.now(), term.began + 1), by: me };
    held = [];
    become("leader", reason);
    if (!own) openOwn();
    say({ kind: "here", types: [...types], change });
  }

  function stepDown() {
    tenure = null;
    closeOwn();
    release();
    lookForLeader();
  }

  /** Says something to the followers. */
  function say(message) {
    if (role === "leader") tell({ ...message, term, place: cursor, mark });
  }

  function openOwn() {
    const mine = (own = open({ ...options, cursor, interval }));
    types.forEach((type) => own.addEventListener(type, receiveOwn));
    own.addEventListener("traffic", ({ detail }) => {
      feed.dispatchEvent(new CustomEvent("traffic", { detail }));
      if (mine !== own || detail.type !== "heartbeat") return;
      moveTo(mine.cursor);
      say({ kind: "heartbeat" });
      meet();
    });
    own.addEventListener("reset", () => {
      moveTo(mine.cursor);
      mark = cursor;
      say({ kind: "reset" });
      feed.dispatchEvent(new CustomEvent("reset", { detail: { cursor } }));
      meet();
    });
    own.addEventListener("state", ({ detail }) => {
      if (mine !== own) return;
      moveTo(mine.cursor);
      say({ kind: "state", change: detail });
      announce(detail);
      meet();
    });
  }

  function closeOwn() {
    const closing = own;
    own = null;
    closing?.close();
  }

  function receiveOwn({ currentTarget, type, data, lastEventId: id }) {
    if (currentTarget !== own) return;
    const isNew = id === "" || !seen.has(id); // this tab may have followed one that was further
    if (id) mark = id;
    moveTo(own.cursor);
    say({ kind: "event", type, data, id });
    if (isNew) dispatch(type, data, id);
    meet();
  }

  function moveTo(place) {
    if (place === null) return;
    cursor = place;
    mark ??= place;
    seen.add(place);
    if (seen.size > REMEMBERED) seen.delete(seen.values().next().value);
  }

  function dispatch(type, data, lastEventId) {
    feed.dispatchEvent(new MessageEvent(type, { data, lastEventId, origin: location.origin }));
  }

  // Following

  function receive(message) {
    const newer = message.term.began - term.began || message.term.by - term.by;
    if (newer < 0) return;
    if (newer > 0) {
      term = message.term;
      if (role === "leader") stepDown();
      else if (message.kind !== "here") tell({ kind: "ask" }); // its first words went past this tab
      role = "joining";
    }
    expectLeader();
    theirs = message.change ?? theirs;
    theirPosition = message;
    if (message.kind === "here" && role === "joining") follow(message);
    else if (role === "follower") take(message);
    else if (role === "alone") keep(message);
  }

  function follow({ place, mark: theirMark, types: heard }) {
    if (![...types].every((type) => heard.includes(type))) {
      // It might pass over what only this tab listens to. It says again that it is here once it knows.
      return tell({ kind: "types", types: [...types] });
    }
    heard.forEach((type) => types.add(type));
    if (cursor === null) {
      moveTo(place);
      mark = theirMark;
    }
    if (mark === theirMark || seen.has(theirMark) || seen.has(place)) return fallIn();
    meeting = theirMark;
    held = [];
    become("alone", "reading what was missed");
    if (!own) openOwn();
  }

  function fallIn() {
    closeOwn();
    if (cursor === theirPosition.place) mark = theirPosition.mark;
    become("follower", "another tab holds the stream");
    announce(theirs);
  }

  function take({ kind, type, data, id, place, mark: theirMark }) {
    if (id && seen.has(id)) return;
    if (id || kind === "reset" || mark === null) mark = theirMark;
    if (mark === theirMark) moveTo(place); // else this tab is further
    if (kind === "state") announce(theirs);
    if (kind === "reset") feed.dispatchEvent(new CustomEvent("reset", { detail: { cursor } }));
    if (kind === "event") dispatch(type, data, id);
  }

  function keep(message) {
    meeting ??= message.mark;
    if (message.id) held.push(message);
    if (held.length > REMEMBERED) [meeting, held] = [message.mark, []];
    meet();
  }

  /** Both go through one log in one order: a tab that has seen one event that the leader told lacks none before it. */
  function meet() {
    if (role !== "alone") return;
    if (![meeting, theirPosition.place, ...held.map(({ id }) => id)].some((position) => seen.has(position))) return;
    fallIn();
    held.forEach(take);
    held = [];
  }
}
