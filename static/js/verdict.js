import * as format from "./format.js";

/** What it comes to, in one sentence for each lane. */
export function showVerdict(show, streamLane, pollLane, now) {
  if (!streamLane.measured || !pollLane.measured) return;
  const ticks = Math.min(streamLane.staleness.ticksUntil(now), pollLane.staleness.ticksUntil(now)); // the same for both
  write("verdict-time", format.duration(ticks));
  for (const [name, { requests, staleness }] of Object.entries({ stream: streamLane, poll: pollLane })) {
    write(`${name}-asked`, format.times(requests));
    write(`${name}-updates`, format.count(Math.min(ticks, staleness.updates)));
    write(`${name}-ticks`, format.count(ticks));
  }
  show("verdict").classList.add("counted");

  function write(name, text) {
    const element = show(name);
    if (element.textContent !== text) element.textContent = text;
  }
}
