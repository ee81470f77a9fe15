/** Draws curves over steps as an SVG: axes with round numbers, and no more points than are visible. */

const WIDTH = 900, HEIGHT = 300;
const LEFT = 62, RIGHT = 14, TOP = 26, BOTTOM = 40;
const MAX_POINTS = 1_000; // per curve: the minimum and maximum of each of 500 intervals

/**
 * @typedef {{name: string, kind: string, values: (number | null)[]}} Curve
 * @param {HTMLElement} figure
 * @param {{numbers: number[], curves: Curve[], steps: number, x: string, y: string}} what
 */
export function draw(figure, { numbers, curves, steps, x, y }) {
  const shown = curves.filter((curve) => curve.values.some((value) => value !== null));
  const [low, high] = extent(shown.flatMap((curve) => curve.values));
  const toX = scale(0, Math.max(steps, numbers.at(-1) ?? 0, 1), LEFT, WIDTH - RIGHT);
  const toY = scale(low, high, HEIGHT - BOTTOM, TOP);
  const svg = make("svg", { class: "curve", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  const latest = shown.map((curve) => `${curve.name} ${short(curve.values.findLast((v) => v !== null) ?? NaN)}`);
  svg.append(make("title", {}, `${y} over ${x}; ${numbers.at(-1) ?? 0} steps; ${latest.join(", ") || "nothing recorded yet"}`));

  for (const tick of ticks(low, high, 5)) {
    svg.append(make("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: toY(tick), y2: toY(tick) }));
    svg.append(make("text", { x: LEFT - 8, y: toY(tick) + 4, "text-anchor": "end" }, short(tick)));
  }
  for (const tick of ticks(0, Math.max(steps, 1), 8).filter(Number.isInteger)) {
    svg.append(make("text", { x: toX(tick), y: HEIGHT - BOTTOM + 17, "text-anchor": "middle" }, String(tick)));
  }
  svg.append(make("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, x));
  const middle = (TOP + HEIGHT - BOTTOM) / 2;
  svg.append(make("text", { x: 14, y: middle, "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` }, y));

  shown.forEach((curve, index) => {
    const points = downsample(numbers.map((number, i) => [number, curve.values[i]]).filter(([, value]) => value !== null));
    const path = points.map(([number, value]) => `${toX(number).toFixed(1)},${toY(value).toFixed(1)}`).join(" ");
    svg.append(make("polyline", { class: curve.kind, points: path, "data-steps": numbers.length }));
    if (points.length === 1) svg.append(make("circle", { class: curve.kind, cx: toX(points[0][0]), cy: toY(points[0][1]), r: 3 }));
    svg.append(make("polyline", { class: curve.kind, points: `${LEFT + 110 * index},12 ${LEFT + 110 * index + 18},12` }));
    svg.append(make("text", { x: LEFT + 110 * index + 24, y: 16 }, curve.name));
  });
  figure.replaceChildren(svg);
}

/** A number with four significant digits; a metric that is not finite is a string. @param {number | string} value */
export function short(value) {
  if (typeof value === "string") return value;
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e5 || size < 1e-3)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

/** Keeps the minimum and the maximum of each interval, so that no spike disappears. @param {any[][]} points */
function downsample(points) {
  if (points.length <= MAX_POINTS) return points;
  const interval = Math.ceil(points.length / (MAX_POINTS / 2));
  const kept = [];
  for (let at = 0; at < points.length; at += interval) {
    const part = points.slice(at, at + interval);
    const low = part.reduce((a, b) => (b[1] < a[1] ? b : a));
    const high = part.reduce((a, b) => (b[1] > a[1] ? b : a));
    kept.push(...(low === high ? [low] : low[0] < high[0] ? [low, high] : [high, low]));
  }
  return kept;
}

/** @param {(number | null)[]} values @returns {[number, number]} */
function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value === null) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return [0, 1];
  const padding = (high - low || Math.abs(high) || 1) * 0.05;
  return [low - padding, high + padding];
}

/** @param {number} low @param {number} high @param {number} count approximate number of ticks */
function ticks(low, high, count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw) ?? raw;
  const found = [];
  for (let n = Math.ceil(low / step); n * step <= high; n++) found.push(Number((n * step).toPrecision(12)));
  return found;
}

/** @param {number} a @param {number} b @param {number} from @param {number} to */
function scale(a, b, from, to) {
  return (/** @type {number} */ value) => from + ((value - a) / (b - a)) * (to - from);
}

/** @param {string} name @param {Record<string, string | number>} attributes @param {string} [text] */
function make(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  if (text !== undefined) element.textContent = text;
  return element;
}
