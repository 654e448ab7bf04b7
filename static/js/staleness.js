/**
 * How far one lane is behind the server's clock.
 *
 * The unit is the tick: the server's time changes once a second, and for each change we ask how long it was there
 * before it was shown here, by itself or by a later one. That is what a user of any live page waits for. (The age of
 * the time shown would say less: it grows to a second between two ticks that both came at once.)
 */
export class Staleness {
  static TICKS = 60;

  /** Ticks shown, and ticks that there were since the first one shown. */
  updates = 0;
  ticks = 0;

  #shown = null;
  #arrivals = new Map();

  /**
   * @param {number} time  What the lane shows now, milliseconds since 1970.
   * @param {number} now   The server's time now.
   * @param {string} by    What brought it.
   */
  show(time, now, by) {
    const tick = Math.floor(time / 1000);
    if (this.#shown === null) {
      this.#shown = tick; // how long this one has been there nobody can know
      return;
    }
    if (tick <= this.#shown) return;
    this.ticks += tick - this.#shown;
    this.updates += 1;
    for (let missed = Math.max(this.#shown, tick - Staleness.TICKS) + 1; missed <= tick; missed += 1) {
      // Not below zero, where our idea of the server's clock is off by more than the stream took.
      this.#arrivals.set(missed, { delay: Math.max(0, now - missed * 1000), by });
    }
    for (const old of this.#arrivals.keys()) {
      if (old > tick - Staleness.TICKS) break;
      this.#arrivals.delete(old);
    }
    this.#shown = tick;
  }

  /** Forgets what is shown, not what was measured: while the page is away nobody waits. */
  pause() {
    this.#shown = null;
  }

  /** Ticks that there were until now, of which the last ones may not be shown yet; one is given half a second. */
  ticksUntil(now) {
    return this.ticks + (this.#shown === null ? 0 : Math.max(0, Math.floor((now - 500) / 1000) - this.#shown));
  }

  /** Milliseconds since the first tick that has not been shown; 0 when there is none. */
  behind(now) {
    return this.#shown === null ? 0 : Math.max(0, now - (this.#shown + 1) * 1000);
  }

  /**
   * Milliseconds that this tick waited and what brought it, or nothing yet; undefined for a tick before the first.
   *
   * @returns {{delay: number, by?: string} | undefined}
   */
  arrival(tick, now) {
    const arrival = this.#arrivals.get(tick);
    if (arrival || this.#shown === null || tick <= this.#shown) return arrival;
    return { delay: Math.max(0, now - tick * 1000) };
  }

  /** Milliseconds, of the last ticks that were shown; undefined before there are any. */
  get median() {
    const delays = this.#delays().sort((a, b) => a - b);
    return delays[delays.length >> 1];
  }

  get worst() {
    return this.#arrivals.size ? Math.max(...this.#delays()) : undefined;
  }

  #delays() {
    return Array.from(this.#arrivals.values(), ({ delay }) => delay);
  }
}
