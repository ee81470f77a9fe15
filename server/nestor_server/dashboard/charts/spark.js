/** Curves and bands of the height of a line of text, as SVG. */

import { html, nothing, svg } from "../vendor/lit-html/lit-html.js";

const WIDTH = 120, HEIGHT = 24, MARGIN = 2;

/**
 * A curve of few points. @param {{steps: readonly number[], values: readonly number[]} | null | undefined} curve
 * @param {string} label what it is, for screen readers
 */
export function spark(curve, label) {
  if (!curve || !curve.values.length) return html`<span class="muted">–</span>`;
  const x = scale(extent(curve.steps), MARGIN, WIDTH - MARGIN), y = scale(extent(curve.values), HEIGHT - MARGIN, MARGIN);
  const points = curve.steps.map((step, i) => `${x(step).toFixed(1)},${y(curve.values[i]).toFixed(1)}`);
  const end = points[points.length - 1].split(",");
  return frame(label, svg`<polyline class="line" points=${points.join(" ")}></polyline><circle class="end" cx=${end[0]} cy=${end[1]} r="1.75"></circle>`);
}

/**
 * Quantiles over steps: the range, the middle half, and the median.
 * @param {{number: readonly number[], quantiles: readonly (readonly number[])[]}} course @param {string} label
 */
export function bandSpark({ number, quantiles }, label) {
  if (!number.length) return html`<span class="muted">–</span>`;
  const x = scale(extent(number), MARGIN, WIDTH - MARGIN), y = scale(extent(quantiles.flat()), HEIGHT - MARGIN, MARGIN);
  const at = (/** @type {number} */ which) => number.map((step, i) => `${x(step).toFixed(1)},${y(quantiles[i][which]).toFixed(1)}`);
  const band = (/** @type {number} */ low, /** @type {number} */ high) => [...at(low), ...at(high).reverse()].join(" ");
  const spread = quantiles.some((one) => one[0] !== one[6]);
  return frame(
    label,
    svg`${spread ? svg`<polygon class="outer" points=${band(1, 5)}></polygon><polygon class="inner" points=${band(2, 4)}></polygon>` : nothing}
      <polyline class="line" points=${at(3).join(" ")}></polyline>`,
  );
}

/** @param {string} label @param {unknown} content */
function frame(label, content) {
  return html`<svg class="spark" viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" role="img" aria-label=${label}>${content}</svg>`;
}

/** @param {readonly number[]} values @returns {[number, number]} */
function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low < high ? [low, high] : [low - 1, low + 1];
}

/** @param {[number, number]} domain @param {number} from @param {number} to */
function scale([low, high], from, to) {
  return (/** @type {number} */ value) => from + ((value - low) / (high - low)) * (to - from);
}
