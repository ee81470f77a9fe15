/** A heat map of histograms over steps, painted into a plot that has its axes and its cursor. */

import { colorOf } from "./plot.js";

/**
 * @typedef {import("../store.js").Schemas["DistributionColumns"]} Distributions
 * @typedef {{edges: number[], shares: Float64Array[], full: number}} Grid rows of equal height between `edges`; of each
 * step, the share of the entries in each row; `full`: the share that has the whole color
 */

const ROWS = 72;
const FULL = 0.97; // of the cells that are not empty have at most the whole color

/**
 * Histograms with bins of different widths on one axis of values.
 * @param {Distributions} found @param {(value: number) => number} map from the edges of bins to the axis; it increases
 * @param {[number, number]} range of the axis @returns {Grid}
 */
export function gridOf(found, map, [low, high]) {
  const edges = Array.from({ length: ROWS + 1 }, (_, row) => low + ((high - low) * row) / ROWS);
  const height = (high - low) / ROWS;
  const shares = found.counts.map((counts, step) => {
    const column = new Float64Array(ROWS);
    const total = counts.reduce((sum, count) => sum + count, 0);
    counts.forEach((count, bin) => {
      if (!count) return;
      const from = map((found.first[step] + bin) * found.width[step]), until = map((found.first[step] + bin + 1) * found.width[step]);
      const first = Math.max(0, Math.floor((from - low) / height)), last = Math.min(ROWS - 1, Math.floor((until - low) / height));
      for (let row = first; row <= last; row++) {
        const overlap = Math.min(until, edges[row + 1]) - Math.max(from, edges[row]);
        column[row] += (count / total) * (until > from ? Math.max(0, overlap) / (until - from) : 1);
      }
    });
    return column;
  });
  const filled = shares.flatMap((column) => [...column].filter((share) => share > 0)).sort((a, b) => a - b);
  return { edges, shares, full: filled[Math.floor(FULL * (filled.length - 1))] ?? 1 };
}

/** Paint a grid; what has more entries has more color. @param {uPlot} plot @param {readonly number[]} steps @param {Grid} grid */
export function paintGrid(plot, steps, { edges, shares, full }) {
  const { ctx } = plot;
  ctx.fillStyle = colorOf(plot.root, "--validation");
  const x = (/** @type {number} */ step) => Math.round(plot.valToPos(step, "x", true));
  const y = edges.map((edge) => Math.round(plot.valToPos(edge, "y", true)));
  shares.forEach((column, i) => {
    const left = x(i ? (steps[i - 1] + steps[i]) / 2 : steps[i]), right = x(i + 1 < steps.length ? (steps[i] + steps[i + 1]) / 2 : steps[i]);
    column.forEach((share, row) => {
      if (!share) return;
      ctx.globalAlpha = Math.max(0.04, Math.min(1, Math.sqrt(share / full)));
      ctx.fillRect(left, y[row + 1], Math.max(1, right - left), y[row] - y[row + 1]);
    });
  });
  ctx.globalAlpha = 1;
}
