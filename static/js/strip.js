import { Staleness } from "./staleness.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 600;
const HEIGHT = 100;
const SLOT = WIDTH / Staleness.TICKS;
const LEAST = 2.5; // of HEIGHT: a tick that came at once is a line, not nothing
const SCALES = [1, 2, 5, 10, 20, 30, 60]; // seconds
const TOLERANCE = 0.05; // a poll each 5 s comes a little after 5 s, and should not halve the scale

/** The last ticks of one lane as bars: how long each has waited, the newest at the right. */
export class Strip {
  #bars = [];

  constructor(svg) {
    for (let slot = 0; slot < Staleness.TICKS; slot += 1) {
      const bar = document.createElementNS(SVG, "rect");
      bar.setAttribute("x", slot * SLOT + SLOT * 0.15);
      bar.setAttribute("width", SLOT * 0.7);
      svg.append(bar);
      this.#bars.push(bar);
    }
  }

  /**
   * @param {Staleness} staleness
   * @param {number} now    The server's time.
   * @param {number} scale  Seconds that the full height stands for.
   */
  draw(staleness, now, scale) {
    const newest = Math.floor(now / 1000);
    this.#bars.forEach((bar, slot) => {
      const tick = newest - Staleness.TICKS + 1 + slot;
      const arrival = staleness.arrival(tick, now);
      const share = Math.min(1, (arrival?.delay ?? 0) / 1000 / scale);
      const height = arrival ? LEAST + share * (HEIGHT - LEAST) : 0;
      set(bar, "height", height.toFixed(1));
      set(bar, "y", (HEIGHT - height).toFixed(1));
      set(bar, "class", arrival?.by ?? "waits");
    });
  }
}

/** The least round number of seconds that this delay fits under. */
export function scaleFor(milliseconds) {
  const fits = (seconds) => seconds * 1000 * (1 + TOLERANCE) >= milliseconds;
  return SCALES.find(fits) ?? SCALES.at(-1);
}

/** Writing what is there already would have the browser paint again. */
function set(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}
