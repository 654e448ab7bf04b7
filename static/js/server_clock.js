/**
 * The server's clock, as well as this browser can know it.
 *
 * The two machines rarely agree on the time. A poll's answer holds the server's time, written somewhere between asking
 * and receiving; taking the middle (as NTP does) is wrong by at most half the round trip. So of the last polls the
 * quickest is believed. Only the last ones, because both clocks drift and may be set.
 */
export class ServerClock {
  static SAMPLES = 20;

  #samples = [];
  #best = null;

  /**
   * @param {number} serverTime  Milliseconds since 1970, as the server said.
   * @param {number} roundTrip   Milliseconds from asking to having received it, which is now.
   */
  learn(serverTime, roundTrip) {
    this.#samples.push({ offset: serverTime - (Date.now() - roundTrip / 2), error: roundTrip / 2 });
    if (this.#samples.length > ServerClock.SAMPLES) this.#samples.shift();
    this.#best = this.#samples.reduce((best, sample) => (sample.error <= best.error ? sample : best));
  }

  /** Whether the server's time is known at all. */
  get known() {
    return this.#best !== null;
  }

  /** Milliseconds since 1970 on the server's clock. */
  get now() {
    return Date.now() + this.offset;
  }

  /** Milliseconds by which the server's clock is ahead of the browser's. */
  get offset() {
    return this.#best?.offset ?? 0;
  }

  /** Milliseconds by which the offset may be wrong: below that nothing can be told. */
  get error() {
    return Math.max(1, this.#best?.error ?? 0); // browsers round the time to a millisecond
  }
}
