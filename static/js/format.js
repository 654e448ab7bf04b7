/** Numbers for people: digits in the manner of their locale, units as the SI writes them. */

const digits = [0, 1].map((n) => new Intl.NumberFormat(undefined, { minimumFractionDigits: n, maximumFractionDigits: n }));
const two = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 2 });
const percents = new Intl.NumberFormat(undefined, { style: "percent", maximumSignificantDigits: 2 });
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium", timeZone: "UTC" });

const UNITS = ["kB", "MB", "GB", "TB", "PB"];

const quantity = (number, decimals, unit) => `${digits[decimals].format(number)}\u00a0${unit}`;

export const count = (number) => digits[0].format(number);

/** Of a machine, as its kernel averages it. */
export const load = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 }).format;

export const times = (number) => (number < 2 ? ["never", "once"][number] : `${count(number)} times`);

/** At most two digits that count, as befits what was multiplied from a few measurements. */
export function short(number) {
  if (!Number.isFinite(number)) return "–";
  if (number < 0.01 && number > 0) return `<\u00a0${two.format(0.01)}`;
  return two.format(number);
}

export const percent = (share) => percents.format(share);

/** @param {number} [milliseconds]  Of processor time. */
export function processor(milliseconds) {
  if (!Number.isFinite(milliseconds)) return "–";
  if (milliseconds < 1) return quantity(milliseconds * 1000, 0, "µs");
  if (milliseconds < 1000) return quantity(milliseconds, 1, "ms");
  return quantity(milliseconds / 1000, 1, "s");
}

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

/** @param {number} [number] */
export function bytes(number) {
  if (!Number.isFinite(number)) return "–";
  if (number < 1000) return quantity(number, 0, "B");
  let unit = 0;
  for (number /= 1000; number >= 999.95 && unit + 1 < UNITS.length; unit += 1) number /= 1000;
  return quantity(number, 1, UNITS[unit]);
}

/** Hours, minutes and seconds, UTC. */
export const time = (milliseconds) => clock.format(milliseconds);
