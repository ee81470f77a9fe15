/** Curves over steps, with a legend beside the data that has the values at the cursor. */

import { count, full, short } from "../format.js";
import { html, nothing, render } from "../vendor/lit-html/lit-html.js";
import { markClipped, markStep, paintGap, ring } from "./marks.js";
import { Plot } from "./plot.js";
import { axisRange, extent, finite, joined, newestAt, robustExtent, smooth, smoothing, thinned, withNear } from "./scales.js";

/**
 * @typedef {import("./scales.js").Values} Values
 * @typedef {object} Curve
 * @property {string} name
 * @property {string} color a CSS variable
 * @property {Values} values
 * @property {readonly number[]} [steps] of its own, if not those of the chart
 * @property {number} [width] 0: the curve only bounds a band
 * @property {number} [alpha]
 * @property {boolean} [dash]
 * @property {boolean} [smoothed] drawn as a mean of neighbors, over the values, which are faint
 * @typedef {object} Content
 * @property {readonly number[]} [steps] of curves that have none
 * @property {Curve[]} curves the first is on top
 * @property {boolean} [robust] outliers may be outside of the axis, where a mark shows them
 * @property {boolean} [log]
 * @property {{value: number, label: string, color?: string, shown?: boolean}[]} [limits] `shown`: the axis extends to it
 * @property {number[]} [marks] steps that are marked above the plot
 * @property {{upper: string, lower: string, alpha: number}[]} [bands] between curves, by name
 * @property {{upper: string, lower: string, from: number} | null} [gap] shaded between two curves, from a step on
 * @property {{step: number, value: number, color: string} | null} [best] a point with a ring
 * @property {[number, number]} [range] of the axis, if it is not that of the values
 * @property {Key[]} [keys] of the legend, if they are not the curves
 * @property {unknown} [note] after the legend
 * @typedef {{name: string, color: string, width?: number, alpha?: number, dash?: boolean, of: string[]}} Key `of`: the
 * names of the curves whose values it has
 */

const MOST = 2_000; // points of a curve

export class LineChart {
  element = document.createElement("div");
  legend = document.createElement("div");
  #plot;
  #cursor;
  #unfollow;
  #content = /** @type {Content | null} */ (null);
  #steps = /** @type {readonly number[]} */ ([]);
  #columns = /** @type {Map<string, Values>} */ (new Map());

  /** @param {import("../cursor.js").Cursor} cursor @param {import("./plot.js").PlotOptions & {legend?: boolean}} options `legend`: whether
   * it is in `element`, above the plot */
  constructor(cursor, { legend = true, ...options }) {
    this.#cursor = cursor;
    this.#plot = new Plot(cursor, options);
    this.legend.className = "legend";
    this.element.className = "chart";
    this.element.append(...(legend ? [this.legend] : []), this.#plot.element);
    this.#unfollow = cursor.follow(() => this.#explain());
  }

  /** @param {Content} content */
  show(content) {
    this.#content = content;
    const { curves, log = false } = content;
    const { steps, columns: given } = aligned(content);
    const columns = given.map(finite); // in JSON, NaN and infinity are words
    const weight = smoothing(steps.length);
    const positive = log ? columns.map((column) => column.map((value) => (Number(value) > 0 ? value : null))) : columns;
    const smoothed = curves.map((curve, i) => (curve.smoothed && weight ? smooth(positive[i], weight) : positive[i]));
    this.#steps = steps;
    this.#columns = new Map(curves.map(({ name }, i) => [name, columns[i]]));
    const indices = new Map(); // of the lines, by name
    const lines = /** @type {import("./plot.js").Line[]} */ ([]);
    for (const [i, { name, color, width, alpha = 1, dash, smoothed: isSmoothed }] of [...curves.entries()].reverse()) {
      if (isSmoothed && weight) lines.push({ values: positive[i], color, width: 1, alpha: alpha * 0.25, dots: false });
      indices.set(name, lines.length);
      lines.push({ values: smoothed[i], color, width, alpha, dash, dots: width !== 0 });
    }
    const range = (/** @type {number} */ from, /** @type {number} */ until) => content.range ?? rangeOf(content, steps, positive, from, until);
    const limits = content.limits?.filter(({ value, shown }) => {
      const [low, high] = range(steps[0], steps[steps.length - 1]);
      return shown || (value >= low && value <= high);
    });
    const named = (/** @type {string} */ name) => lines[indices.get(name)].values;
    this.#plot.draw({
      steps, lines, range, log,
      marked: Boolean(content.marks?.length),
      limits: limits?.map(({ value, label, color }) => ({ value, label, color })),
      bands: content.bands?.map(({ upper, lower, alpha }) => ({
        upper: indices.get(upper), lower: indices.get(lower), alpha, color: lines[indices.get(upper)].color,
      })),
      under: (plot) => {
        const { gap } = content;
        if (gap) paintGap(plot, steps, named(gap.upper), named(gap.lower), gap.from, lines[indices.get(gap.upper)].color);
      },
      over: (plot) => {
        for (const { values, color, dots } of lines) if (dots) markClipped(plot, steps, values, color);
        for (const step of content.marks ?? []) markStep(plot, step);
        if (content.best) ring(plot, content.best);
      },
    });
    // What is drawn, for tests: a canvas cannot be asked.
    const high = String(range(steps[0], steps[steps.length - 1])[1]);
    Object.assign(this.element.dataset, { steps: String(content.steps?.length ?? steps.length), high });
    this.#explain();
  }

  destroy() {
    this.#unfollow();
    this.#plot.destroy();
  }

  #explain() {
    if (!this.#content) return;
    const { step } = this.#cursor;
    const { curves, keys = curves.map((curve) => ({ ...curve, of: [curve.name] })), note = nothing } = this.#content;
    const values = (/** @type {string[]} */ names) => names.map((name) => this.#valueAt(name, step));
    render(
      html`<span class="at">${step === null ? "latest" : `step ${count(step)}`}</span>${keys.map(
        (key) => html`<span class="key">${swatch(key)}${key.name} <span class="value num">${values(key.of).map((value, i) => html`${i ? " … " : ""}${value}`)}</span></span>`,
      )}${note}`,
      this.legend,
    );
  }

  /** The newest value until a step. @param {string} name of the curve @param {number | null} step */
  #valueAt(name, step) {
    const values = this.#columns.get(name) ?? [], at = newestAt(this.#steps, values, step);
    return at < 0 ? short(null) : html`<span title="${full(values[at])} at step ${count(this.#steps[at])}">${short(values[at])}</span>`;
  }
}

/** The columns of all curves over the same steps. @param {Content} content */
function aligned({ steps = [], curves }) {
  const own = curves.some((curve) => curve.steps);
  const { steps: all, columns } = own
    ? joined(curves.map((curve) => ({ steps: curve.steps ?? steps, values: curve.values })))
    : { steps, columns: curves.map((curve) => curve.values) };
  if (all.length <= MOST) return { steps: all, columns };
  const kept = thinned(all, columns, MOST);
  return { steps: kept.map((i) => all[i]), columns: columns.map((column) => kept.map((i) => column[i])) };
}

/** @param {Content} content @param {readonly number[]} steps @param {readonly Values[]} columns @param {number} from @param {number} until @returns {[number, number]} */
function rangeOf({ robust, log, limits = [] }, steps, columns, from, until) {
  const inside = (/** @type {Values} */ values) => values.filter((_, i) => steps[i] >= from && steps[i] <= until);
  const ranges = columns.map((column) => (robust ? robustExtent : extent)(inside(column), log));
  const always = limits.filter(({ value, shown }) => shown && (!log || value > 0)).map(({ value }) => value);
  const others = limits.filter(({ shown }) => !shown && !log).map(({ value }) => value);
  return withNear(axisRange([...ranges, extent(always)], log), others);
}

/** What a curve looks like. @param {Curve | Key} curve */
export function swatch({ color, width = 1.5, alpha = 1, dash }) {
  return html`<svg class="swatch" width="18" height="10" aria-hidden="true"><line x1="1" y1="5" x2="17" y2="5" stroke="var(${color})"
    stroke-width=${Math.max(width, 1) * 1.2} stroke-opacity=${alpha} stroke-dasharray=${dash ? "5 3" : nothing}></line></svg>`;
}
