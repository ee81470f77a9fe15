/** What charts compute before they draw: ranges that ignore outliers, smooth curves, where a gap widens. No DOM here. */

/**
 * @typedef {readonly (number | null | undefined)[]} Values
 * @typedef {[number, number]} Range
 */

const OUTSIDE = 0.03; // of the values, at each end, do not decide what an axis shows,
const FENCE = 2; // but those within so many times the distance of the others are shown, too
const FEW = 8; // values, of which none is an outlier
const MARGIN = 0.05; // of the height, above and below a curve

/** The numbers among values that an axis can show. @param {Values} values @param {boolean} [log] @returns {number[]} */
function shown(values, log = false) {
  const numbers = [];
  for (const value of values) if (typeof value === "number" && Number.isFinite(value) && (!log || value > 0)) numbers.push(value);
  return numbers;
}

/** Null for what no axis can show. @param {readonly unknown[]} values @returns {(number | null)[]} */
export function finite(values) {
  return values.map((value) => (typeof value === "number" && Number.isFinite(value) ? value : null));
}

/** The least and the largest of some values; null without any. @param {Values} values @param {boolean} [log] @returns {Range | null} */
export function extent(values, log = false) {
  let low = Infinity, high = -Infinity;
  for (const value of shown(values, log)) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : null;
}

/**
 * The same without outliers, so that one spike does not flatten a curve.
 * @param {Values} values @param {boolean} [log] distances are those of logarithms @returns {Range | null}
 */
export function robustExtent(values, log = false) {
  const sorted = shown(values, log).sort((a, b) => a - b);
  if (!sorted.length) return null;
  const least = sorted[0], largest = sorted[sorted.length - 1];
  if (sorted.length < FEW) return [least, largest];
  const outside = Math.ceil(OUTSIDE * sorted.length);
  const low = sorted[outside], high = sorted[sorted.length - 1 - outside];
  if (low === high) return [least, largest]; // the rest is all that happens
  if (log) return [Math.max(least, low / (high / low) ** FENCE), Math.min(largest, high * (high / low) ** FENCE)];
  return [Math.max(least, low - FENCE * (high - low)), Math.min(largest, high + FENCE * (high - low))];
}

/** What an axis shows: all ranges, and a margin. Never empty. @param {(Range | null)[]} ranges @param {boolean} [log] @returns {Range} */
export function axisRange(ranges, log = false) {
  const found = /** @type {Range[]} */ (ranges.filter((range) => range !== null));
  if (!found.length) return log ? [0.1, 1] : [0, 1];
  const low = Math.min(...found.map((range) => range[0])), high = Math.max(...found.map((range) => range[1]));
  if (log) {
    const factor = low === high ? 2 : (high / low) ** MARGIN;
    return [low / factor, high * factor];
  }
  const margin = low === high ? Math.abs(low) / 10 || 1 : (high - low) * MARGIN;
  return [low - margin, high + margin];
}

const NEAR = 0.35; // of the height

/** A range that reaches those of some values that are close to it. @param {Range} range @param {readonly number[]} values @returns {Range} */
export function withNear([low, high], values) {
  const reach = NEAR * (high - low);
  const close = values.filter((value) => (value < low && value >= low - reach) || (value > high && value <= high + reach));
  return close.length ? axisRange([[low, high], extent(close)]) : [low, high];
}

/**
 * A mean with weights that fall exponentially to both sides, so that it does not lag behind a steep curve.
 * @param {Values} values @param {number} weight of a neighbor, below 1 @returns {(number | null)[]} null where there is no
 * number
 */
export function smooth(values, weight) {
  const result = finite(values);
  const known = result.flatMap((value, i) => (value === null ? [] : [i]));
  const numbers = /** @type {number[]} */ (known.map((i) => result[i]));
  const before = decayed(numbers, weight), after = decayed(numbers.toReversed(), weight).reverse();
  known.forEach((i, k) => {
    result[i] = (before[k].sum + after[k].sum - numbers[k]) / (before[k].weights + after[k].weights - 1);
  });
  return result;
}

const WIDEST = 9; // neighbors of which a mean consists, about, or a fiftieth of a short curve

/** The weight with which a curve of so many points is smoothed. @param {number} points */
export function smoothing(points) {
  const width = Math.max(1, Math.min(WIDEST, points / 50));
  return (width - 1) / (width + 1);
}

/** Each number and those before it, with falling weights. @param {number[]} numbers @param {number} weight */
function decayed(numbers, weight) {
  let sum = 0, weights = 0;
  return numbers.map((number) => {
    sum = number + weight * sum;
    weights = 1 + weight * weights;
    return { sum, weights };
  });
}

const NEIGHBOR = 0.6; // weight, because batches are noisy
const FEWEST = 4; // points of both curves, below which nothing is said about their gap
const BEGUN = 0.1; // of the widening

/**
 * The step from which a curve has been moving away above another, to the end; null if it has not: the last step at which
 * their gap had at most a tenth of its widening.
 * @param {readonly number[]} steps @param {Values} upper @param {Values} lower @returns {number | null}
 */
export function gapStart(steps, upper, lower) {
  const below = smooth(lower, NEIGHBOR);
  const both = steps.map((_, i) => i).filter((i) => Number.isFinite(upper[i] ?? NaN) && below[i] !== null);
  if (both.length < FEWEST) return null;
  const raw = both.map((i) => Math.max(0, Number(upper[i]) - Number(below[i])));
  const gap = /** @type {number[]} */ (smooth(raw, NEIGHBOR));
  const end = gap[gap.length - 1], least = Math.min(...gap);
  const noise = Math.sqrt(raw.reduce((sum, value, i) => sum + (value - gap[i]) ** 2, 0) / raw.length);
  if (end - least <= Math.max(2 * noise, BEGUN * end)) return null;
  return steps[both[gap.findLastIndex((value) => value <= least + BEGUN * (end - least))]];
}

/**
 * The indices of at most about `most` points: the first, the last, and of equal parts those with the least and the
 * largest value of each curve.
 * @param {readonly number[]} steps @param {readonly Values[]} curves @param {number} most @returns {number[]}
 */
export function thinned(steps, curves, most) {
  if (steps.length <= most) return steps.map((_, i) => i);
  const parts = Math.max(1, Math.floor((most - 2) / (2 * curves.length)));
  const kept = new Set([0, steps.length - 1]);
  for (let part = 0; part < parts; part++) {
    const from = Math.floor((part * steps.length) / parts), until = Math.floor(((part + 1) * steps.length) / parts);
    for (const curve of curves) {
      let low = -1, high = -1;
      for (let i = from; i < until; i++) {
        const value = curve[i];
        if (typeof value !== "number") continue;
        if (low < 0 || value < Number(curve[low])) low = i;
        if (high < 0 || value > Number(curve[high])) high = i;
      }
      if (low >= 0) kept.add(low).add(high);
    }
  }
  return [...kept].sort((a, b) => a - b);
}

/**
 * Curves with steps of their own as columns over the union of their steps.
 * @param {readonly {steps: readonly number[], values: Values}[]} curves
 * @returns {{steps: number[], columns: (number | null)[][]}}
 */
export function joined(curves) {
  const steps = [...new Set(curves.flatMap((curve) => curve.steps))].sort((a, b) => a - b);
  const at = new Map(steps.map((step, i) => [step, i]));
  const columns = curves.map((curve) => {
    const column = /** @type {(number | null)[]} */ (Array(steps.length).fill(null));
    curve.steps.forEach((step, i) => (column[Number(at.get(step))] = curve.values[i] ?? null));
    return column;
  });
  return { steps, columns };
}

/** The index of the newest value at a step or before it, -1 without one. @param {readonly number[]} steps @param {Values} values @param {number | null} step null: the last */
export function newestAt(steps, values, step) {
  for (let i = steps.length - 1; i >= 0; i--) if ((step === null || steps[i] <= step) && typeof values[i] === "number") return i;
  return -1;
}

/** From the number that is optimized to the one that the losses read. All increase. @type {Record<string, (value: number) => number>} */
export const TRANSFORMS = {
  identity: (value) => value,
  exp: Math.exp,
  sigmoid: (value) => 1 / (1 + Math.exp(-value)),
  softplus: (value) => Math.max(value, 0) + Math.log1p(Math.exp(-Math.abs(value))),
};

/** Whether two lists have the same objects: what was drawn is up to date. @param {readonly unknown[]} a @param {readonly unknown[]} b */
export function isSame(a, b) {
  return a.length === b.length && a.every((one, i) => one === b[i]);
}
