import * as format from "./format.js";

const LINES = 8;

/** What the connection did, in words: one line for each change, and one for a row of attempts that ended alike. */
export function keepLog(list, feed, clock) {
  let last = { state: "", reason: "" };
  let repeats = 0;

  feed.addEventListener("state", ({ detail: { state, reason, retryIn } }) => {
    const same = state === last.state && reason === last.reason;
    repeats = same ? repeats + 1 : 1;
    last = { state, reason };
    const from = state === "connecting" || feed.cursor === null ? "" : `, cursor ${feed.cursor}`;
    const next = retryIn === undefined ? "" : `; the stream is tried again in ${format.delay(retryIn)}`;
    const times = repeats > 1 ? ` (${format.count(repeats)} times)` : "";
    const line = document.createElement("li");
    const time = document.createElement("time");
    time.dateTime = new Date(clock.now).toISOString();
    time.textContent = format.time(clock.now);
    const name = document.createElement("b");
    name.textContent = state;
    name.dataset.state = state;
    const words = document.createElement("span");
    words.textContent = `${reason}${times}${from}${next}`;
    line.append(time, name, words);
    if (same) list.firstElementChild.replaceWith(line);
    else list.prepend(line);
    while (list.childElementCount > LINES) list.lastElementChild.remove();
  });
}
