/**
 * Values that run on: the last minute of each lane on one scale, drawn on a canvas.
 *
 * Our own, because it has one thing to do. A library that does everything weighs as much as this whole page, and most
 * set styles from scripts, which a strict Content-Security-Policy forbids. A canvas, because a line of 600 points that
 * moves with each frame is cheaper to paint than to lay out.
 */

const SECONDS = 60;
const STEP = 0.1; // seconds between samples
const SIZE = Math.ceil(SECONDS / STEP) + 10;
const GAP = 1; // seconds; a line does not pretend to know what was while the page was hidden
const MARK_EVERY = 10; // seconds
const RIGHT = 9; // CSS pixels for the mark at the end
const scheme = matchMedia("(prefers-color-scheme: dark)");

/** @typedef {{color: string, mark: "square" | "circle", filled?: boolean}} Line  `color` is a custom property. */

export class Chart {
  #canvas;
  #context;
  #lines;
  #times = new Float64Array(SIZE);
  #values;
  #next = 0;
  #colors;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {Line[]} lines  Told apart by their marks as well as by their colours.
   */
  constructor(canvas, lines) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    this.#lines = lines;
    this.#values = lines.map(() => new Float64Array(SIZE));
    new ResizeObserver(() => this.#fit()).observe(canvas);
    scheme.addEventListener("change", () => (this.#colors = undefined));
  }

  /** @param {number} time  Seconds. @param {number[]} values  One for each line. */
  add(time, values) {
    if (this.#next && time - this.#times[(this.#next - 1) % SIZE] < STEP) return;
    const slot = this.#next % SIZE;
    this.#times[slot] = time;
    values.forEach((value, line) => (this.#values[line][slot] = value));
    this.#next += 1;
  }

  /** @param {number} time  Seconds, at the right edge. @param {number} top  The value at the upper edge. */
  draw(time, top, current) {
    const scale = devicePixelRatio;
    const [width, height] = [this.#canvas.width / scale, this.#canvas.height / scale];
    if (!width) return;
    const context = this.#context;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const x = (at) => (width - RIGHT) * (1 - (time - at) / SECONDS);
    const y = (value) => height - 5 - Math.min(1, value / top) * (height - 12);
    this.#colors ??= this.#lines.map(({ color }) => getComputedStyle(this.#canvas).getPropertyValue(color));
    this.#lines.forEach((line, index) => this.#drawLine(line, index, x, y, time, current[index]));
  }

  #drawLine({ mark, filled }, index, x, y, time, value) {
    const context = this.#context;
    const first = Math.max(0, this.#next - SIZE);
    const marks = [];
    let before = NaN;
    context.strokeStyle = context.fillStyle = this.#colors[index];
    context.lineWidth = 2;
    context.lineJoin = "round";
    context.beginPath();
    for (let sample = first; sample < this.#next; sample += 1) {
      const at = this.#times[sample % SIZE];
      if (time - at > SECONDS) continue;
      const point = [x(at), y(this.#values[index][sample % SIZE])];
      if (at - before < GAP) context.lineTo(...point);
      else context.moveTo(...point);
      if (Math.floor(at / MARK_EVERY) !== Math.floor(before / MARK_EVERY) && !Number.isNaN(before)) marks.push(point);
      before = at;
    }
    if (time - before < GAP) context.lineTo(x(time), y(value));
    context.stroke();
    if (filled) this.#fill(first, index, x, y, time);
    marks.forEach((point) => this.#mark(mark, ...point, 2.5));
    this.#mark(mark, x(time), y(value), 4.5);
  }

  /** The area below, faintly: how much there was to wait, all in all. */
  #fill(first, index, x, y, time) {
    const context = this.#context;
    let before = NaN;
    context.globalAlpha = 0.16;
    context.beginPath();
    for (let sample = first; sample < this.#next; sample += 1) {
      const at = this.#times[sample % SIZE];
      if (time - at > SECONDS) continue;
      if (!(at - before < GAP)) {
        if (!Number.isNaN(before)) context.lineTo(x(before), y(0));
        context.moveTo(x(at), y(0));
      }
      context.lineTo(x(at), y(this.#values[index][sample % SIZE]));
      before = at;
    }
    context.lineTo(x(before), y(0));
    context.fill();
    context.globalAlpha = 1;
  }

  #mark(shape, x, y, radius) {
    const context = this.#context;
    context.beginPath();
    if (shape === "circle") context.arc(x, y, radius, 0, 2 * Math.PI);
    else context.rect(x - radius, y - radius, 2 * radius, 2 * radius);
    context.fill();
  }

  #fit() {
    this.#canvas.width = Math.round(this.#canvas.clientWidth * devicePixelRatio);
    this.#canvas.height = Math.round(this.#canvas.clientHeight * devicePixelRatio);
  }
}

/** The least number of the form 1, 2 or 5 times a power of ten that is not less than this. */
export function roundUp(number) {
  const power = 10 ** Math.floor(Math.log10(number));
  return [1, 2, 5, 10].map((digit) => digit * power).find((round) => round >= number * 0.999);
}
