const RECENT = 30;

/**
 * What reading costs this server, measured while it is read: a poll's answer says what it took (`Server-Timing`), and
 * the stats on the stream say what writing to streams took.
 */
export class Costs {
  /** The last totals of the process that holds the stream, see `sse_demo/stats.py`; undefined before there are any. */
  totals;

  #polls = [];
  #answers = [];
  #history = [];
  #event;
  #eventBytes;

  constructor(pollFeed, streamFeed) {
    pollFeed.addEventListener("traffic", ({ detail: { cpu, bytes, elapsed } }) => {
      if (cpu !== undefined) keep(this.#polls, cpu);
      if (elapsed !== undefined) keep(this.#answers, bytes);
    });
    streamFeed.addEventListener("state", () => (this.#history = [])); // another stream may be of another process
    streamFeed.addEventListener("stats", ({ data }) => {
      this.totals = JSON.parse(data);
      keep(this.#history, { ...this.totals, at: performance.now() / 1000 });
      const events = this.#grown("deliveries");
      if (events > 0) this.#event = (this.#grown("stream_seconds") / events) * 1000;
    });
    streamFeed.addEventListener("message", ({ data, lastEventId }) => {
      if (streamFeed.state === "streaming") this.#eventBytes = `data: ${data}\n\n`.length; // a time is ASCII
    });
  }

  /** Milliseconds of processor time that an answer to a poll took; undefined while unknown, as all below. */
  get poll() {
    return median(this.#polls);
  }

  /** Milliseconds of processor time that it took to write one event to one stream. */
  get event() {
    return this.#event;
  }

  /** Bytes of an answer to a poll, with its head. */
  get pollBytes() {
    return median(this.#answers);
  }

  /** Bytes of an event on a stream. */
  get eventBytes() {
    return this.#eventBytes;
  }

  /** How much of a processor core the process has used lately: 1 is all of it. */
  get load() {
    const seconds = this.#grown("at");
    return seconds > 0 ? this.#grown("process_seconds") / seconds : undefined;
  }

  #grown(total) {
    return this.#history.length > 1 ? this.#history.at(-1)[total] - this.#history[0][total] : 0;
  }
}

function keep(list, item) {
  list.push(item);
  if (list.length > RECENT) list.shift();
}

function median(list) {
  return [...list].sort((a, b) => a - b)[list.length >> 1];
}
