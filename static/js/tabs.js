import * as format from "./format.js";

const EVERY = 2000; // ms; a tab that crashes tells nobody

const PARTS = {
  joining: "joins",
  leader: "holds the stream",
  follower: "is fed by another tab",
  alone: "reads by itself",
};

/** Which part this tab has in the stream that all tabs share, and how many they are. */
export function showTabs(show, feed) {
  feed.addEventListener("role", count);
  setInterval(count, EVERY);
  count();

  async function count() {
    const tabs = await feed.tabs();
    write("tab-role", PARTS[feed.role]);
    write("tab-count", tabs === 1 ? "1 tab" : `${format.count(tabs)} tabs`);
  }

  function write(name, text) {
    const element = show(name);
    if (element.textContent !== text) element.textContent = text;
  }
}
