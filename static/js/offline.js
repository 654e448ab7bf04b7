/**
 * No page can take its browser offline. So this has every request of the page fail within the page itself, in the way
 * in which it would without a network.
 */

const { EventSource: RealEventSource, fetch: realFetch } = globalThis;
const open = new Set();
let offline = false;

/** Can be cut off. */
class EventSource extends RealEventSource {
  constructor(...address) {
    if (offline) return new Unreachable();
    super(...address);
    open.add(this);
  }

  close() {
    open.delete(this);
    super.close();
  }
}

/** An EventSource that finds no network. */
class Unreachable extends EventTarget {
  readyState = RealEventSource.CONNECTING;

  constructor() {
    super();
    setTimeout(() => this.dispatchEvent(new Event("error")));
  }

  close() {
    this.readyState = RealEventSource.CLOSED;
  }
}

globalThis.EventSource = EventSource;
globalThis.fetch = (...request) => (offline ? Promise.reject(new TypeError("Offline")) : realFetch(...request));

// The tab that holds the stream may be another one, and a browser without a network has none in any of its tabs.
const tabs = new BroadcastChannel("offline");
tabs.onmessage = ({ data }) => set(data);

/** @returns {() => void}  Goes online again, which the browser would tell its pages as well. */
export function goOffline() {
  const everywhere = (value) => {
    set(value);
    tabs.postMessage(value);
  };
  everywhere(true);
  return () => everywhere(false);
}

function set(value) {
  offline = value;
  if (!offline) return dispatchEvent(new Event("online"));
  for (const source of open) {
    source.close();
    source.dispatchEvent(new Event("error"));
  }
}
