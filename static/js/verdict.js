import * as format from "./format.js";

/** What it comes to, in one sentence for each lane. */
export function showVerdict(show, streamLane, pollLane) {
  if (!streamLane.measured || !pollLane.measured) return;
  write("verdict-time", format.duration(pollLane.staleness.ticks));
  for (const [name, { requests, staleness }] of Object.entries({ stream: streamLane, poll: pollLane })) {
    write(`${name}-asked`, format.times(requests));
    write(`${name}-updates`, format.count(staleness.updates));
    write(`${name}-ticks`, format.count(staleness.ticks));
  }
  show("verdict").classList.add("counted");

  function write(name, text) {
    const element = show(name);
    if (element.textContent !== text) element.textContent = text;
  }
}
