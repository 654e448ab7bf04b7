import * as format from "./format.js";

/** What the two lanes of this page have cost the server so far, and what else its process does. */
export function showServerCost(show, costs, pollLane, streamLane) {
  write("poll-each", format.processor(costs.poll));
  write("stream-each", format.processor(costs.event));
  for (const [name, lane, total] of [
    ["poll", pollLane, costs.poll * pollLane.requests],
    ["stream", streamLane, costs.event * streamLane.staleness.updates],
  ]) {
    const { updates } = lane.staleness;
    write(`${name}-total`, format.processor(total));
    write(`${name}-update`, format.processor(updates ? total / updates : undefined));
  }
  const { totals, load } = costs;
  if (!totals || load === undefined) return;
  write("process-streams", format.count(totals.streams));
  write("process-deliveries", format.count(totals.deliveries));
  write("process-polls", format.count(totals.polls));
  write("process-load", format.percent(load));
  write("process-memory", format.bytes(totals.memory));

  function write(name, text) {
    const element = show(`cost-${name}`);
    if (element.textContent !== text) element.textContent = text;
  }
}
