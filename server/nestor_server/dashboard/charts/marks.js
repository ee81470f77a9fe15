/** What is painted onto a plot of curves: where values are beyond the axis, warnings, a gap, the best step. */

import { colorOf, ratio } from "./plot.js";

/** @typedef {import("./scales.js").Values} Values */

/** Shade between two curves, from a step on. @param {uPlot} plot @param {readonly number[]} steps @param {Values} upper @param {Values} lower @param {number} from @param {string} color */
export function paintGap(plot, steps, upper, lower, from, color) {
  const ends = steps.map((_, i) => i).filter((i) => steps[i] >= from && typeof upper[i] === "number");
  const first = ends[0], last = ends[ends.length - 1];
  if (first === last) return;
  const along = steps.map((_, i) => i).filter((i) => i >= first && i <= last && typeof lower[i] === "number").reverse();
  const { ctx } = plot;
  ctx.beginPath();
  for (const [values, indices] of /** @type {[Values, number[]][]} */ ([[upper, ends], [lower, along]])) {
    for (const i of indices) ctx.lineTo(plot.valToPos(steps[i], "x", true), plot.valToPos(Number(values[i]), "y", true));
  }
  ctx.closePath();
  ctx.globalAlpha = 0.13;
  ctx.fillStyle = colorOf(plot.root, color);
  ctx.fill();
}

/** Marks at the edge where values are beyond the axis. @param {uPlot} plot @param {readonly number[]} steps @param {Values} values @param {string} color */
export function markClipped(plot, steps, values, color) {
  const { bbox, scales } = plot, px = ratio(plot);
  const least = Number(scales.y.min), largest = Number(scales.y.max), from = Number(scales.x.min), until = Number(scales.x.max);
  let before = -Infinity;
  steps.forEach((step, i) => {
    const value = values[i];
    if (typeof value !== "number" || step < from || step > until || (value >= least && value <= largest)) return;
    const x = plot.valToPos(step, "x", true);
    if (x - before < 9 * px) return;
    before = x;
    if (value > largest) triangle(plot, x, bbox.top + 5 * px, -1, 4, color);
    else triangle(plot, x, bbox.top + bbox.height - 5 * px, 1, 4, color);
  });
}

/** A mark above the plot. @param {uPlot} plot @param {number} step */
export function markStep(plot, step) {
  const { bbox } = plot, x = plot.valToPos(step, "x", true);
  if (x < bbox.left - 1 || x > bbox.left + bbox.width + 1) return;
  triangle(plot, x, bbox.top - 9 * ratio(plot), 1, 5, "--care");
}

/** @param {uPlot} plot @param {number} x @param {number} y @param {1 | -1} down @param {number} size @param {string} color */
function triangle(plot, x, y, down, size, color) {
  const { ctx } = plot, s = size * ratio(plot);
  ctx.fillStyle = colorOf(plot.root, color);
  ctx.beginPath();
  ctx.moveTo(x - s, y - (down * s) / 2);
  ctx.lineTo(x + s, y - (down * s) / 2);
  ctx.lineTo(x, y + down * s);
  ctx.fill();
}

/** The best step. @param {uPlot} plot @param {{step: number, value: number, color: string}} best */
export function ring(plot, { step, value, color }) {
  const { ctx, bbox } = plot, px = ratio(plot);
  const x = plot.valToPos(step, "x", true), y = plot.valToPos(value, "y", true);
  if (!(x >= bbox.left - 1 && x <= bbox.left + bbox.width + 1 && y >= bbox.top - 1 && y <= bbox.top + bbox.height + 1)) return;
  ctx.lineWidth = 2 * px;
  ctx.strokeStyle = colorOf(plot.root, color);
  ctx.fillStyle = colorOf(plot.root, "--panel");
  ctx.beginPath();
  ctx.arc(x, y, 4.5 * px, 0, 2 * Math.PI);
  ctx.fill();
  ctx.stroke();
}
