import { Chart, roundUp } from "./chart.js";
import * as format from "./format.js";

const LINES = [
  { color: "--poll", mark: "square", filled: true },
  { color: "--stream", mark: "circle" },
];

/**
 * The last minute of both lanes, each figure on one scale: how far behind, and what was asked and received until then.
 *
 * @returns {(now: number, scale: number) => void}  Draws, at the server's time, with this many seconds to the top of
 *                                                  the first chart.
 */
export function drawCharts(show, pollLane, streamLane) {
  const lanes = [pollLane, streamLane];
  const charts = ["behind", "requests", "bytes"].map((name) => new Chart(show(`chart-${name}`), LINES));
  const tops = ["behind", "requests", "bytes"].map((name) => show(`top-${name}`));

  return (now, scale) => {
    const time = now / 1000;
    const values = [
      lanes.map((lane) => lane.staleness.behind(now) / 1000),
      lanes.map((lane) => lane.requests),
      lanes.map((lane) => lane.bytes),
    ];
    const [requests, bytes] = [Math.max(...values[1], 5), Math.max(...values[2], 1000)].map(roundUp);
    [scale, requests, bytes].forEach((top, index) => {
      charts[index].add(time, values[index]);
      charts[index].draw(time, top, values[index]);
    });
    write(tops[0], format.seconds(scale));
    write(tops[1], format.count(requests));
    write(tops[2], format.bytes(bytes));
  };
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
