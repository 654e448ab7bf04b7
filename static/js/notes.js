import * as format from "./format.js";

const KEPT = 6;
const LANES = ["poll", "stream"];

/** Notes that somebody has written, here or in another window, and how long each lane took to bring them. */
export class Notes {
  #list;
  #template;
  #clock;
  #rows = new Map();

  /**
   * @param {HTMLElement} list
   * @param {HTMLTemplateElement} template  Of one note.
   * @param {{poll: EventTarget, stream: EventTarget}} feeds
   * @param {ServerClock} clock
   */
  constructor(list, template, feeds, clock) {
    this.#list = list;
    this.#template = template;
    this.#clock = clock;
    for (const lane of LANES) {
      feeds[lane].addEventListener("note", ({ data, lastEventId }) => this.#arrive(lane, lastEventId, parse(data)));
    }
  }

  /** Has those that are still waited for wait on. */
  draw() {
    for (const { note, arrivals, outputs } of this.#rows.values()) {
      for (const lane of LANES) {
        if (!arrivals[lane]) write(outputs[lane], `waits ${format.runningDelay(this.#age(note))}`);
      }
    }
  }

  #arrive(lane, id, note) {
    const row = this.#rows.get(id) ?? this.#add(id, note);
    row.arrivals[lane] += 1;
    const times = row.arrivals[lane] > 1 ? `, ${format.times(row.arrivals[lane])}` : "";
    row.outputs[lane].dataset.arrived = "";
    if (times) write(row.outputs[lane], row.outputs[lane].textContent + times);
    else write(row.outputs[lane], format.delay(this.#age(note), this.#clock.error));
  }

  #add(id, note) {
    const item = this.#template.content.firstElementChild.cloneNode(true);
    item.querySelector("q").textContent = note?.text ?? JSON.stringify(note);
    const outputs = Object.fromEntries(LANES.map((lane) => [lane, item.querySelector(`[data-lane-delay="${lane}"]`)]));
    this.#list.prepend(item);
    const row = { note: { at: this.#clock.now, ...note }, arrivals: { poll: 0, stream: 0 }, outputs, item };
    this.#rows.set(id, row);
    for (const [oldest, { item: old }] of this.#rows) {
      if (this.#rows.size <= KEPT) break;
      old.remove();
      this.#rows.delete(oldest);
    }
    return row;
  }

  #age({ at = this.#clock.now }) {
    return Math.max(0, this.#clock.now - at);
  }
}

/** A form that publishes what is typed in it, as any page or program may that is allowed to. */
export function publishForm(form, status, clock) {
  const [input, button] = [form.elements.text, form.querySelector("button")];
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    const note = { channel: "lab", type: "note", data: { text: input.value, at: Math.round(clock.now) } };
    status.textContent = await publish(form.action, form.elements.csrfmiddlewaretoken.value, note);
    button.disabled = false;
    if (!status.textContent) form.reset();
    input.focus();
  });
}

/** @returns {Promise<string>} what went wrong; empty if nothing did */
async function publish(url, token, event) {
  try {
    const headers = { "Content-Type": "application/json", "X-CSRFToken": token };
    const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(event) });
    if (response.ok) return "";
    return (await response.json()).error;
  } catch {
    return "The server could not be reached.";
  }
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A note that was published as text is its text. */
function parse(data) {
  try {
    return JSON.parse(data);
  } catch {
    return { text: data };
  }
}
