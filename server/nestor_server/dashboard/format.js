/** Numbers, times and sizes as text: four significant digits, and the words that the pages share. */

const MISSING = "–";
const UNITS = /** @type {[number, string][]} */ ([[86_400, "d"], [3_600, "h"], [60, "min"], [1, "s"]]);
const ENGLISH = "en-US"; // the pages are in English, so are their numbers

/** A number with four significant digits; what is not finite, or no number, as it is. @param {unknown} value */
export function short(value) {
  if (value === null || value === undefined) return MISSING;
  if (typeof value !== "number") return String(value);
  if (!Number.isFinite(value)) return Number.isNaN(value) ? MISSING : value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) return minus(value.toExponential(2).replace("e+", "e"));
  if (Number.isInteger(value)) return minus(count(value));
  return minus(String(Number(value.toPrecision(4))));
}

/** A number with its sign. @param {number | null | undefined} value */
export function signed(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return MISSING;
  return value > 0 ? `+${short(value)}` : short(value);
}

/** All digits of a number, for a tooltip. @param {unknown} value */
export function full(value) {
  return typeof value === "number" ? String(value) : "";
}

/** An integer with separators. @param {number} value */
export function count(value) {
  return value.toLocaleString(ENGLISH);
}

/** "1 step", "1,200 steps". @param {number} n @param {string} one @param {string} [many] */
export function plural(n, one, many = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : many}`;
}

/** A fraction in percent; above 0 and below 1 it is never shown as 0 % or 100 %. @param {number | null | undefined} fraction */
export function percent(fraction) {
  if (fraction === null || fraction === undefined || !Number.isFinite(fraction)) return MISSING;
  const rounded = Math.round(fraction * 100);
  if (rounded === 0 && fraction > 0) return "< 1 %";
  if (rounded === 100 && fraction < 1) return "> 99 %";
  return `${rounded} %`;
}

/** Seconds with one or two units: "1.2 s", "3 min 20 s", "2 d 4 h". @param {number | null | undefined} seconds */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return MISSING;
  if (seconds < 10) return `${Number(seconds.toPrecision(2))} s`;
  const whole = Math.round(seconds);
  const at = UNITS.findIndex(([size]) => whole >= size);
  const [size, name] = UNITS[at];
  const next = UNITS[at + 1];
  const rest = next ? Math.floor((whole % size) / next[0]) : 0;
  return `${Math.floor(whole / size)} ${name}${rest ? ` ${rest} ${next[1]}` : ""}`;
}

/** How long ago a time was: "now", "12 s ago", "3 d ago". @param {string | null | undefined} time @param {number} now */
export function ago(time, now) {
  if (!time) return MISSING;
  const seconds = Math.max(0, (now - Date.parse(time)) / 1000);
  if (seconds < 2) return "now";
  const [size, name] = UNITS.find(([size]) => seconds >= size) ?? UNITS[3];
  return `${Math.floor(seconds / size)} ${name} ago`;
}

/** The time of day with seconds, and the date if it is another one. @param {string | number} time @param {number} [now] */
export function clock(time, now = Date.now()) {
  const at = new Date(time);
  const day = at.toDateString() === new Date(now).toDateString() ? "" : `${at.toLocaleDateString("sv-SE")} `;
  return day + at.toLocaleTimeString("sv-SE");
}

/** A JSON value as one line. @param {unknown} value */
export function inline(value) {
  if (typeof value === "string") return value;
  return typeof value === "number" ? short(value) : JSON.stringify(value);
}

/** @param {string} text */
function minus(text) {
  return text.replace("-", "−").replace("e−", "e-");
}
