import { goOffline } from "./offline.js";

const LASTING = 600; // seconds; then the server forgets: nobody should wonder next week why the stream is broken

/** What each failure is, in the words of the log, and for how many seconds. The names are those of `sse_demo/faults.py`. */
const FAULTS = {
  cut: { seconds: 15, words: "the server now ends every stream after 3 s" },
  refuse: { seconds: 15, words: "the server now answers streams with 503" },
  hang: { seconds: 15, words: "streams now open and say nothing" },
  restart: { seconds: 6, words: "the server now answers nothing but 503, to streams and to polls" },
  offline: { seconds: 8, words: "every request of this page now fails" },
};

/**
 * Buttons that have the server fail this browser for some seconds, by a cookie that it honours for the demonstration,
 * and a switch that has it refuse the stream until it is turned back.
 */
export class Faults {
  #buttons;
  #switch;
  #feed;
  #tell;
  #mendAt;
  #goOnline;
  #timer;

  /**
   * @param {HTMLButtonElement[]} buttons  Each with `data-fault`.
   * @param {HTMLInputElement} lasting     The switch.
   * @param {EventTarget} feed             That of the stream, which is to try anew when something has changed.
   * @param {(name: string, words: string) => void} tell  Writes into the log.
   */
  constructor(buttons, lasting, feed, tell) {
    this.#buttons = buttons;
    this.#switch = lasting;
    this.#feed = feed;
    this.#tell = tell;
    for (const button of buttons) {
      button.addEventListener("click", () => (this.#isOn(button) ? this.mend() : this.cause(button.dataset.fault)));
    }
    lasting.addEventListener("change", () => {
      if (lasting.checked) this.cause("refuse", LASTING);
      else this.mend();
    });
  }

  cause(fault, seconds = FAULTS[fault].seconds) {
    this.#stop();
    this.#mendAt = performance.now() + seconds * 1000;
    this.#timer = setTimeout(() => this.mend(), seconds * 1000);
    this.#show(fault);
    this.#tell("you", `${FAULTS[fault].words}, for ${seconds < LASTING ? `${seconds} s` : "as long as the switch is on"}`);
    if (fault === "offline") {
      this.#goOnline = goOffline();
    } else {
      setCookie(fault, seconds);
      this.#feed.reconnect(); // the open stream is from before, and would not notice
    }
  }

  mend() {
    const wasOffline = this.#goOnline;
    this.#tell("you", wasOffline ? "the network is back, which a browser tells its pages" : "all works again: try at once");
    this.#stop();
    if (!wasOffline) this.#feed.reconnect();
  }

  /** Shows how long it will last. */
  draw() {
    for (const button of this.#buttons) {
      const left = button.querySelector(".left");
      const text = this.#isOn(button) ? `${Math.max(0, Math.ceil((this.#mendAt - performance.now()) / 1000))}\u00a0s` : "";
      if (left.textContent !== text) left.textContent = text;
    }
  }

  #stop() {
    clearTimeout(this.#timer);
    setCookie("", 0);
    this.#goOnline?.();
    this.#goOnline = undefined;
    this.#show("");
  }

  #show(fault) {
    for (const button of this.#buttons) button.setAttribute("aria-pressed", button.dataset.fault === fault);
    this.#switch.checked = fault === "refuse";
  }

  #isOn(button) {
    return button.getAttribute("aria-pressed") === "true";
  }
}

function setCookie(fault, seconds) {
  document.cookie = `fault=${fault}; path=/; max-age=${seconds}; samesite=strict`;
}
