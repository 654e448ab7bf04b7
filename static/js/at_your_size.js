import * as format from "./format.js";

// What an event costs in a crowd, as a share of a poll: 12 µs and 850 µs, see docs/scaling.md. What waking up takes is
// paid once for all streams of a process, so one visitor's event is no measure of it.
const IN_A_CROWD = 12 / 850;
const MONTH = 30.44 * 86_400; // seconds

/**
 * The measured costs, multiplied. Every figure is shown with what it was multiplied from.
 *
 * @returns {() => void}  Computes again, from what the costs are by now.
 */
export function atYourSize(show, control, costs, streamLane, clock) {
  const [visitors, rate, interval] = ["visitors", "rate", "asks"].map(control);
  const age = Number(show("size").dataset.age);
  [visitors, rate, interval].forEach((input) => input.addEventListener("input", compute));
  compute();
  return compute;

  function compute() {
    const people = twoDigits(10 ** Number(visitors.value));
    const updates = twoDigits(10 ** Number(rate.value));
    const every = Number(interval.value);
    say(visitors, "visitors", format.count(people));
    say(rate, "rate", updates < 1 ? `1 in ${format.seconds(twoDigits(1 / updates))}` : `${format.short(updates)} a second`);
    say(interval, "asks", format.seconds(every));

    const requests = people / every;
    const events = people * updates;
    const each = eventAt(people);
    const what = `${format.short(events)}/s × ${format.processor(each)}`;
    row(
      "requests",
      format.short(requests),
      `${format.count(people)} ÷ ${format.seconds(every)}`,
      age ? format.short(people / age) : "0",
      age ? `${format.count(people)} ÷ ${format.count(age)} s, after which a stream is renewed` : "each asks once, and stays",
    );
    row(
      "updates",
      format.percent(Math.min(1, 1 / (every * updates))),
      updates * every > 1 ? "the latest of each interval" : "as there are fewer than polls",
      format.percent(1),
      "each, when it happens",
    );
    row(
      "waits",
      format.seconds(every / 2),
      `${format.seconds(every)} ÷ 2`,
      format.delay(streamLane.staleness.median, clock.error),
      "the median of your lane above",
    );
    row(
      "cores",
      format.short((requests * costs.poll) / 1000),
      `${format.short(requests)}/s × ${format.processor(costs.poll)}`,
      format.short((events * each) / 1000),
      `${what}, as in the crowd of compare; in yours, ${format.processor(costs.event)}`,
    );
    row(
      "every",
      format.short((events * costs.poll) / 1000),
      `${format.short(events)}/s × ${format.processor(costs.poll)}, one poll for each update`,
      format.short((events * each) / 1000),
      "the same, as it shows each of them",
    );
    row(
      "traffic",
      format.bytes(requests * costs.pollBytes * MONTH),
      `${format.short(requests)}/s × ${format.bytes(costs.pollBytes)} × 1 month`,
      format.bytes(events * costs.eventBytes * MONTH),
      `${format.short(events)}/s × ${format.bytes(costs.eventBytes)} × 1 month`,
    );
  }

  /** Milliseconds of processor time for one event to one of so many streams; undefined while unknown. */
  function eventAt(streams) {
    if (costs.event === undefined || costs.poll === undefined) return undefined;
    const crowded = Math.min(costs.event, costs.poll * IN_A_CROWD);
    return crowded + ((costs.event - crowded) * Math.max(1, costs.totals.streams)) / Math.max(streams, costs.totals.streams);
  }

  function row(name, poll, pollFormula, stream, streamFormula) {
    write(`size-poll-${name}`, poll);
    write(`size-poll-${name}-formula`, pollFormula);
    write(`size-stream-${name}`, stream);
    write(`size-stream-${name}-formula`, streamFormula);
  }

  function say(input, name, text) {
    input.setAttribute("aria-valuetext", text);
    write(`size-${name}`, text);
  }

  function write(name, text) {
    const element = show(name);
    if (element.textContent !== text) element.textContent = text;
  }
}

const twoDigits = (number) => Number(number.toPrecision(2));
