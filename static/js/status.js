import { FeedSource } from "../events/feed.js";
import * as format from "./format.js";

/**
 * One view, polled in one lane and live in the other: while a visitor looks, as each browser has few connections.
 *
 * @param {HTMLElement} section  With the view's URL.
 */
export function showStatus(section) {
  const url = section.dataset.status;
  const polled = new Answers(section.querySelector('[data-status-lane="poll"]'));
  const streamed = new Answers(section.querySelector('[data-status-lane="stream"]'));
  let isNear = false;
  let timer, source;

  new IntersectionObserver(([{ isIntersecting }]) => follow((isNear = isIntersecting))).observe(section);
  document.addEventListener("visibilitychange", follow);

  function follow() {
    const isWatched = isNear && document.visibilityState === "visible";
    if (isWatched && !source) start();
    if (!isWatched && source) stop();
  }

  function start() {
    timer = setInterval(() => fetch(url).then((answer) => answer.json()).then(polled.take, wait), 2000);
    (source = new FeedSource(url)).onmessage = (event) => streamed.take(JSON.parse(event.data));
    source.onopen = () => streamed.open();
  }

  function stop() {
    clearInterval(timer);
    source.close();
    source = null;
  }
}

/** Counts what the view has answered, and how much of it was new. */
class Answers {
  #lane;
  #opened = 0;
  #answers = 0;
  #news = 0;
  #last = "";

  constructor(lane) {
    this.#lane = lane;
    this.#draw();
  }

  /** A stream is open. */
  open() {
    this.#opened += 1;
    this.#draw();
  }

  take = ({ load }) => {
    if (!load) return; // an error, while the server restarts
    this.#answers += 1;
    const text = load.map(format.load).join("  ");
    if (text !== this.#last) this.#news += 1;
    this.#last = text;
    this.#draw();
  };

  #draw() {
    const write = (name, text) => (this.#lane.querySelector(`[data-show="status-${name}"]`).textContent = text);
    write("load", this.#last || "–");
    write("asked", format.times(this.#lane.dataset.statusLane === "poll" ? this.#answers : this.#opened));
    write("news", format.count(this.#news));
  }
}

/** The next poll may be answered. */
function wait() {}
