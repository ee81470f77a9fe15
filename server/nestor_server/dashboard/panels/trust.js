/** Can the hypergradient be trusted: small charts with their limits, each with what it means and what to turn. */

import { LineChart } from "../charts/line.js";
import { newestAt } from "../charts/scales.js";
import { count, percent, short } from "../format.js";
import { last } from "../store.js";
import { empty, number, panel, verdict } from "../ui.js";
import { html, nothing, render, svg } from "../vendor/lit-html/lit-html.js";

/**
 * @typedef {import("../store.js").Snapshot} Snapshot
 * @typedef {{name: string, text: string, limits?: {value: number, label: string, color?: string, shown: boolean}[]}} Measure
 */

/** @type {Record<string, Measure>} by column */
const MEASURES = {
  residual: {
    name: "Residual of the solve",
    text: "‖b − A q‖ / ‖b‖; 0 is exact. More terms, or conjugate gradients, lower it.",
    limits: [{ value: 0, label: "exact", color: "--faint", shown: true }],
  },
  hypergradient_cosine: {
    name: "Cosine with the step before",
    text: "Near 1 is steady, near 0 mostly noise. Larger batches steady it.",
    limits: [{ value: 0, label: "noise", color: "--faint", shown: true }],
  },
  inner_gradient_ratio: {
    name: "Inner gradient against its start",
    text: "The theorem assumes 0. More inner steps lower it.",
    limits: [{ value: 1, label: "start", color: "--faint", shown: true }],
  },
  alpha_norm: {
    name: "α · λmax",
    text: "The Neumann series converges below 2. alpha=\"auto\" or damping lowers it.",
    limits: [{ value: 2, label: "limit 2", shown: true }],
  },
  hypergradient_norm: {
    name: "Norm of the hypergradient",
    text: "At 0 nothing is tuned.",
    limits: [{ value: 0, label: "", color: "--faint", shown: true }],
  },
};

/** @type {import("./panel.js").MakePanel} */
export function trust(element, app) {
  const entries = Object.entries(MEASURES);
  const charts = new Map(entries.map(([column, { name }]) => [column, new LineChart(app.cursor, { label: `${name} over steps`, height: 66, legend: false, numbered: false, gutter: 52 })]));
  let draw = () => {};
  let drawn = /** @type {import("../store.js").Steps | null} */ (null);
  const unfollow = app.cursor.follow(() => draw());
  return {
    /** Where the time of the newest step went. @param {Snapshot} snapshot @returns {Promise<Record<string, number> | null>} */
    read: async ({ trial }) => {
      if (!trial.step) return null;
      const { columns } = await app.store.of(trial, "/steps", { columns: "number,seconds", after: trial.step - 1, limit: 1 });
      return columns.seconds.at(-1) ?? null;
    },

    /** @param {Snapshot} snapshot @param {Record<string, number> | null} seconds */
    show: ({ trial, steps }, seconds) => {
      const known = entries.filter(([column]) => last(steps[column]) !== null);
      for (const [column, { name, limits }] of steps === drawn ? [] : known) {
        charts.get(column)?.show({ steps: steps.number, curves: [{ name, color: "--validation", values: steps[column] }], robust: true, limits });
      }
      drawn = steps;
      draw = () => {
        const content = known.length
          ? html`<div class="measures">${known.map(([column, measure]) => row(measure, steps, column, charts.get(column)?.element, app.cursor.step))}</div>${seconds ? split(seconds) : nothing}`
          : empty("Nothing is measured before the first step.");
        render(panel("Can the hypergradient be trusted?", content, { controls: trial.verdict ? html`<span>${verdict(trial.verdict)}</span>` : nothing }), element);
      };
      draw();
    },

    destroy: () => {
      unfollow();
      for (const chart of charts.values()) chart.destroy();
    },
  };
}

/** @param {Measure} measure @param {import("../store.js").Steps} steps @param {string} column @param {HTMLElement | undefined} chart @param {number | null} step */
function row({ name, text }, steps, column, chart, step) {
  const at = newestAt(steps.number, steps[column], step);
  return html`<div class="measure">
    <div>
      <h3>${name}</h3>
      <p><span class="value">${number(at < 0 ? null : steps[column][at])}</span> <span class="muted">${step === null || at < 0 ? nothing : `at step ${count(steps.number[at])}`}</span></p>
      <p class="muted">${text}</p>
    </div>
    ${chart}
  </div>`;
}

/** @param {Record<string, number>} seconds */
function split(seconds) {
  const products = Math.min(seconds.products ?? 0, seconds.hypergradient ?? 0);
  const parts = [
    { name: "inner steps", kind: "inner", value: seconds.inner ?? 0 },
    { name: "curvature products", kind: "products", value: products },
    { name: "rest of the hypergradient", kind: "hypergradient", value: (seconds.hypergradient ?? 0) - products },
    { name: "evaluation", kind: "evaluation", value: seconds.evaluation ?? 0 },
  ].filter(({ value }) => value > 0);
  const all = parts.reduce((sum, { value }) => sum + value, 0);
  let x = 0;
  return html`<div class="split">
    <h3>Time of the newest step <span class="value">${time(all)}</span></h3>
    <svg viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">${parts.map(({ kind, value }) => {
      const width = (100 * value) / all;
      x += width;
      return svg`<rect data-kind=${kind} x=${x - width} width=${width} height="1"></rect>`;
    })}</svg>
    <ul>${parts.map(({ name, kind, value }) => html`<li data-kind=${kind}>${name} <span class="num">${time(value)} · ${percent(value / all)}</span></li>`)}</ul>
    ${seconds.data ? html`<p class="muted">Of this, ${time(seconds.data)} were spent on data.</p>` : nothing}
  </div>`;
}

/** @param {number} seconds */
function time(seconds) {
  return seconds < 1 ? `${short(Number((seconds * 1000).toPrecision(2)))} ms` : `${short(Number(seconds.toPrecision(3)))} s`;
}
