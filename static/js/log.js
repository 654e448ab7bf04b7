import * as format from "./format.js";

const LINES = 14;

/**
 * What the connection did, in words: one line for each change, and one for a row of attempts that ended alike.
 *
 * @returns {(name: string, words: string) => void}  Adds a line of another kind.
 */
export function keepLog(list, feed, clock) {
  let last = { state: "", reason: "" };
  let repeats = 0;
  let before;

  feed.addEventListener("state", ({ detail: { state, reason, retryIn } }) => {
    const same = state === last.state && reason === last.reason;
    repeats = same ? repeats + 1 : 1;
    last = { state, reason };
    const from = state === "connecting" || feed.cursor === null ? "" : `, cursor ${feed.cursor}`;
    const next = retryIn === undefined ? "" : `; the stream is tried again in ${format.delay(retryIn)}`;
    const times = repeats > 1 ? ` (${format.count(repeats)} times)` : "";
    write(state, `${reason}${times}${from}${next}`, same);
  });
  feed.addEventListener("role", ({ detail: { role, reason } }) => tell(role, reason));
  return tell;

  function tell(name, words) {
    last = { state: "", reason: "" };
    write(name, words, false);
  }

  function write(name, words, inPlace) {
    const line = document.createElement("li");
    const time = document.createElement("time");
    time.dateTime = new Date(clock.now).toISOString();
    time.textContent = format.time(clock.now);
    const who = document.createElement("b");
    who.textContent = name;
    who.dataset.state = name;
    const what = document.createElement("span");
    what.textContent = words;
    const after = document.createElement("small");
    after.textContent = before === undefined ? "" : `+${format.delay(performance.now() - before)}`;
    after.title = "since the line before";
    line.append(time, after, who, what);
    if (inPlace) {
      list.firstElementChild.replaceWith(line);
    } else {
      list.prepend(line);
      before = performance.now();
    }
    while (list.childElementCount > LINES) list.lastElementChild.remove();
  }
}
