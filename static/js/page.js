import { headSize, openFeed } from "../events/feed.js";
import { atYourSize } from "./at_your_size.js";
import { drawCharts } from "./charts.js";
import { Costs } from "./costs.js";
import { Faults } from "./faults.js";
import * as format from "./format.js";
import { Lane } from "./lane.js";
import { keepLog } from "./log.js";
import { Notes, publishForm } from "./notes.js";
import { ServerClock } from "./server_clock.js";
import { showServerCost } from "./server_cost.js";
import { showSigns } from "./signs.js";
import { showStatus } from "./status.js";
import { scaleFor } from "./strip.js";
import { showTabs } from "./tabs.js";
import { showVerdict } from "./verdict.js";

const { stream, poll } = document.body.dataset;
const show = (name) => document.querySelector(`[data-show="${name}"]`);
const control = (name) => document.querySelector(`[data-control="${name}"]`);
const article = (name) => document.querySelector(`[data-lane="${name}"]`);

const slider = control("interval");
const interval = () => Number(slider.value) * 1000;

const clock = new ServerClock();
const channels = ["clock", "lab"];
const streamFeed = openFeed({ stream, poll, interval: interval(), channels: [...channels, "stats"], share: true });
const pollFeed = openFeed({ stream: null, poll, interval: interval(), channels });
const streamLane = new Lane(article("stream"), streamFeed, clock, sizeOfHead());
const pollLane = new Lane(article("poll"), pollFeed, clock);
const costs = new Costs(pollFeed, streamFeed);

// Browsers that cannot tell by CSS whether scripts run have shown it until now.
document.querySelector(".without-scripts").remove();

const tell = keepLog(show("log"), streamFeed, clock);
const faults = new Faults([...document.querySelectorAll("[data-fault]")], control("break"), streamFeed, tell);
const notes = new Notes(show("notes"), show("note"), { poll: pollFeed, stream: streamFeed }, clock);
if (control("publish")) publishForm(control("publish"), show("published"), clock);
const drawAll = drawCharts(show, pollLane, streamLane);
const compute = atYourSize(show, control, costs, streamLane, clock);
showTabs(show, streamFeed);
showStatus(document.querySelector("[data-status]"));
showSigns(streamFeed, document.querySelector("link[rel=icon]"));

streamFeed.addEventListener("stats", showCosts);
pollFeed.addEventListener("traffic", showCosts);

slider.addEventListener("input", () => {
  // The stream's lane as well: where it has to poll, it does what its neighbour does.
  streamFeed.interval = interval();
  pollFeed.interval = interval();
  showInterval();
});
showInterval();

const unmoving = matchMedia("(prefers-reduced-motion: reduce)");
let drawn = 0;
requestAnimationFrame(draw);

function draw(time) {
  requestAnimationFrame(draw);
  if (unmoving.matches && time - drawn < 1000) return;
  drawn = time;
  const now = clock.now;
  // One scale for both lanes, or the eye would compare what cannot be compared.
  const scale = scaleFor(Math.max(streamLane.longest(now), pollLane.longest(now)));
  streamLane.draw(now, scale);
  pollLane.draw(now, scale);
  drawAll(now, scale);
  faults.draw();
  notes.draw();
  showVerdict(show, streamLane, pollLane, now);
  showOffset();
}

function showCosts() {
  showServerCost(show, costs, pollLane, streamLane);
  compute();
}

function showInterval() {
  show("interval").textContent = format.seconds(Number(slider.value));
}

function showOffset() {
  if (!clock.known) return;
  const text = `${format.delay(Math.abs(clock.offset))} ± ${format.delay(clock.error)}`;
  if (show("offset").textContent !== text) show("offset").textContent = text;
}

async function sizeOfHead() {
  const response = await fetch(stream, { method: "HEAD", cache: "no-store" }).catch(() => null);
  return response?.ok ? headSize(response) : 0;
}
