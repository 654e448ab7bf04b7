import * as format from "./format.js";
import { Staleness } from "./staleness.js";
import { Strip } from "./strip.js";

const STATES = {
  connecting: "Connecting",
  streaming: "Streaming",
  polling: "Polling",
  denied: "Denied",
  closed: "Closed",
};

/** One way to read the clock, and what came of it: a feed, and the article of the page that shows it. */
export class Lane {
  staleness = new Staleness();
  requests = 0;
  bytes = 0;

  #article;
  #feed;
  #clock;
  #strip;
  #headSize;
  #roundTrip;
  #retryAt;

  /**
   * @param {HTMLElement} article
   * @param {EventTarget} feed
   * @param {ServerClock} clock
   * @param {Promise<number>} [headSize]  Bytes of the head of a stream's response, which the feed does not see.
   */
  constructor(article, feed, clock, headSize = Promise.resolve(0)) {
    this.#article = article;
    this.#feed = feed;
    this.#clock = clock;
    this.#headSize = headSize;
    this.#strip = new Strip(this.#find("strip"));
    feed.addEventListener("message", ({ data }) => this.#showTime(data));
    feed.addEventListener("state", ({ detail }) => this.#showState(detail));
    feed.addEventListener("traffic", ({ detail }) => this.#addTraffic(detail));
  }

  /** Whether there is anything to compare yet. */
  get measured() {
    return this.staleness.ticks > 0;
  }

  /** Milliseconds: the longest wait that the strip has to have room for. */
  longest(now) {
    return Math.max(this.staleness.worst ?? 0, this.staleness.behind(now));
  }

  /**
   * @param {number} now    The server's time.
   * @param {number} scale  Seconds that the strip's full height stands for.
   */
  draw(now, scale) {
    this.#strip.draw(this.staleness, now, scale);
    this.#write("scale", format.seconds(scale));
    this.#write("now", this.measured ? format.runningDelay(this.staleness.behind(now)) : "–");
    this.#write("countdown", this.#countdown());
  }

  #showTime(data) {
    const time = Date.parse(data);
    if (Number.isNaN(time)) return; // anybody may publish on a channel
    if (this.#roundTrip !== undefined) {
      this.#clock.learn(time, this.#roundTrip);
      this.#roundTrip = undefined;
    }
    const element = this.#find("time");
    element.dateTime = data;
    element.textContent = format.time(time);
    if (this.#clock.known) this.staleness.show(time, this.#clock.now, this.#article.dataset.state);
    this.#showFigures();
  }

  #showState({ state, reason, retryIn }) {
    this.#retryAt = retryIn === undefined ? undefined : performance.now() + retryIn;
    if (state === "closed") this.staleness.pause();
    if (state === "streaming" && this.#feed.role !== "follower") this.#headSize.then((size) => (this.bytes += size));
    this.#article.dataset.state = state;
    this.#write("state", state !== "closed" && reason.includes("could not be reached") ? "No answer" : STATES[state]);
    this.#write("reason", reason);
  }

  #addTraffic({ via, requests, bytes, elapsed, type }) {
    if (type === "stats") return; // the lab's own, which the other lane does without
    this.requests += requests;
    this.bytes += bytes;
    if (via === "poll") this.#roundTrip = elapsed;
    this.#showFigures();
  }

  #showFigures() {
    const { updates, ticks, median, worst } = this.staleness;
    this.#write("requests", format.count(this.requests));
    this.#write("bytes", format.bytes(this.bytes));
    if (!this.measured) return;
    this.#write("updates", format.count(updates));
    this.#write("ticks", format.count(ticks));
    this.#write("each", format.bytes(this.bytes / updates));
    this.#write("median", format.delay(median, this.#clock.error));
    this.#write("worst", format.delay(worst, this.#clock.error));
  }

  #countdown() {
    if (this.#retryAt === undefined) return "";
    const left = Math.ceil((this.#retryAt - performance.now()) / 1000);
    return left > 0 ? `Next attempt in ${format.seconds(left)}` : "Trying now";
  }

  #find(name) {
    return this.#article.querySelector(`[data-show="${name}"]`);
  }

  #write(name, text) {
    const element = this.#find(name);
    if (element.textContent !== text) element.textContent = text;
  }
}
