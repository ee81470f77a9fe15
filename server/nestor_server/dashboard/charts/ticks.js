/** Axes of charts that are drawn as SVG: where a value lies, and which values are round. */

/** Round numbers within [low, high], about `n` of them. @param {number} low @param {number} high @param {number} n */
export function ticks(low, high, n) {
  const rough = (high - low) / Math.max(1, n);
  if (!(rough > 0) || !Number.isFinite(rough)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= 0.75 * rough) ?? 10);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}

/** Maps a range of values to one of pixels. @param {readonly [number, number]} range @param {number} from @param {number} to */
export function scale([low, high], from, to) {
  return (/** @type {number} */ value) => from + ((value - low) / (high - low)) * (to - from);
}
