/** Numbers for people: digits in the manner of their locale, units as the SI writes them. */

const digits = [0, 1].map((n) => new Intl.NumberFormat(undefined, { minimumFractionDigits: n, maximumFractionDigits: n }));
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium", timeZone: "UTC" });

const quantity = (number, decimals, unit) => `${digits[decimals].format(number)}\u00a0${unit}`;

export const count = (number) => digits[0].format(number);

export const times = (number) => (number === 1 ? "once" : `${count(number)} times`);

export const seconds = (number) => quantity(number, Number.isInteger(number) ? 0 : 1, "s");

/** A delay that is changing as one looks: always seconds, so that the figure does not jump about. */
export const runningDelay = (milliseconds) => quantity(milliseconds / 1000, 1, "s");

/**
 * Below a second in milliseconds, else in seconds with a tenth.
 *
 * @param {number} [milliseconds]
 * @param {number} [error]  Milliseconds below which it could not be measured.
 */
export function delay(milliseconds, error = 0) {
  if (milliseconds === undefined) return "–";
  if (milliseconds < error) return `<\u00a0${quantity(Math.ceil(error), 0, "ms")}`;
  if (milliseconds < 999.5) return quantity(milliseconds, 0, "ms");
  return quantity(milliseconds / 1000, 1, "s");
}

/** @param {number} number  Whole seconds. */
export function duration(number) {
  const minutes = Math.floor(number / 60);
  const rest = seconds(number % 60);
  return minutes ? `${quantity(minutes, 0, "min")} ${rest}` : rest;
}

export function bytes(number) {
  if (number < 1000) return quantity(number, 0, "B");
  if (number < 1_000_000) return quantity(number / 1000, 1, "kB");
  return quantity(number / 1_000_000, 1, "MB");
}

/** Hours, minutes and seconds, UTC. */
export const time = (milliseconds) => clock.format(milliseconds);
