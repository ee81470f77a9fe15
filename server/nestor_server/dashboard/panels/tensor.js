/** The hyperparameter that was chosen: how its entries are distributed over the steps, or each of a few entries. */

import { BANDS, KEYS, quantileCurves } from "../charts/bands.js";
import { gridOf, paintGrid } from "../charts/heat.js";
import { LineChart } from "../charts/line.js";
import { Plot } from "../charts/plot.js";
import { axisRange, extent, isSame, TRANSFORMS, withNear } from "../charts/scales.js";
import { count, plural, short } from "../format.js";
import { empty, panel, segmented } from "../ui.js";
import { html, nothing, render } from "../vendor/lit-html/lit-html.js";
import { chosen, courses, NAMED, pathOf } from "./chosen.js";

/**
 * @typedef {import("../store.js").Snapshot} Snapshot @typedef {import("../store.js").Schemas} Schemas
 * @typedef {import("../store.js").Trial} Trial
 * @typedef {Schemas["HyperparameterSummary"]} Summary
 * @typedef {{summary: Summary, entries: Schemas["EntryValues"] | null}} Data `entries`: of few ones, all
 * @typedef {"optimized" | "used" | "change"} Form
 */

const POINTS = 200;
const COLORS = 10; // of lines, in charts.css
const FORMS = { optimized: "as optimized", used: "as losses read it", change: "change since start" };

/** @type {import("./panel.js").MakePanel} */
export function tensor(element, app) {
  const lines = new LineChart(app.cursor, { label: "Values over steps", height: 240, legend: false });
  const heat = new Plot(app.cursor, { label: "Every entry over steps", height: 240 });
  let form = /** @type {Form} */ ("optimized");
  let drawn = /** @type {unknown[]} */ ([]);
  let content = /** @type {unknown} */ (nothing);
  return {
    /** @param {Snapshot} snapshot @param {import("../route.js").Route} route @returns {Promise<Data | null>} */
    read: async ({ trial }, route) => {
      const name = route.query.tensor || chosen(await courses(app, trial), route);
      if (!name) return null;
      const summary = await read(app, trial, name);
      if (size(summary) > NAMED) return { summary, entries: null };
      const index = Array.from({ length: size(summary) }, (_, i) => i).join(",");
      return { summary, entries: await app.store.of(trial, pathOf(name, "values"), { index, max_points: POINTS }) };
    },

    /** @param {Snapshot} snapshot @param {Data | null} data */
    show: (snapshot, data) => {
      if (!data) return render(nothing, element);
      const { summary, entries } = data;
      const draw = () => {
        const forms = summary.transform === "identity" ? { optimized: "value", change: FORMS.change } : FORMS;
        if (!(form in forms)) form = "optimized";
        const choose = (/** @type {string} */ chosen) => {
          form = /** @type {Form} */ (chosen);
          draw();
        };
        const inputs = [summary, entries, form];
        if (!isSame(inputs, drawn)) {
          content = entries?.steps.length ? fewEntries(data, entries) : summary.distributions.number.length ? distribution(summary) : statistics(summary);
          drawn = inputs;
        }
        render(panel(summary.name, content, { controls: segmented("Form", forms, form, choose), note: note(summary), kind: "tensor" }), element);
      };
      draw();
    },

    destroy: () => {
      lines.destroy();
      heat.destroy();
    },
  };

  /** @param {Data} data @param {Schemas["EntryValues"]} entries */
  function fewEntries({ summary }, entries) {
    const curves = entries.values.map((values, i) => {
      const start = Number(values[0]);
      const map = form === "change" ? (/** @type {number} */ value) => value - start : mapOf(summary, form, 0);
      return {
        name: entries.names[i], color: entries.values.length === 1 ? "--validation" : `--line-${i % COLORS}`,
        dash: i % (2 * COLORS) >= COLORS, values: values.map((value) => map(Number(value))),
      };
    });
    lines.show({ steps: entries.steps, curves, limits: form === "change" ? [] : limitsOf(summary, (value) => mapOf(summary, form, 0)(value)) });
    return html`${lines.legend}${lines.element}`;
  }

  /** @param {Summary} summary */
  function distribution(summary) {
    const { number, quantiles } = summary.distributions;
    const map = mapOf(summary, form, quantiles[0][3]);
    const curves = quantileCurves(quantiles, map);
    const limits = limitsOf(summary, map);
    const range = withNear(axisRange(curves.map(({ values }) => extent(values))), limits.map(({ value }) => value));
    lines.show({ steps: number, curves, bands: BANDS, keys: KEYS, limits, range });
    const grid = gridOf(summary.distributions, map, range);
    heat.draw({
      steps: number, lines: [{ values: number.map(() => null), color: "--validation" }], range: () => range,
      under: (plot) => paintGrid(plot, number, grid),
    });
    return html`<div class="toolbar">${lines.legend}<p class="legend end muted">The heat map has every entry; more color is more entries.</p></div>
      <div class="pair">${lines.element}${heat.element}</div>
      ${form === "change" ? html`<p class="muted">All values are minus the median at step ${count(number[0])}.</p>` : nothing}`;
  }

  /** What earlier versions recorded. @param {Summary} summary */
  function statistics(summary) {
    const { number, min, mean, max } = summary.columns;
    if (!number.length) return empty("Nothing is recorded yet.");
    const map = mapOf(summary, form, Number(mean[0]));
    const mapped = (/** @type {(number | null)[]} */ values) => values.map((value) => (value === null ? null : map(value)));
    lines.show({
      steps: /** @type {number[]} */ (number), bands: [{ upper: "max", lower: "min", alpha: 0.15 }], limits: limitsOf(summary, map),
      curves: [
        { name: "max", color: "--validation", width: 0, values: mapped(max) },
        { name: "mean", color: "--validation", width: 2, values: mapped(mean) },
        { name: "min", color: "--validation", width: 0, values: mapped(min) },
      ],
    });
    return html`${lines.legend}${lines.element}`;
  }
}

/** The whole course; that of a very long trial comes in parts. @param {import("../app.js").App} app @param {Trial} trial @param {string} name @returns {Promise<Summary>} */
async function read(app, trial, name) {
  const part = (/** @type {number} */ after) => app.store.of(trial, pathOf(name, "summary"), { max_points: POINTS, after });
  let all = /** @type {Summary} */ (await part(0));
  while (all.next_after != null) {
    const next = /** @type {Summary} */ (await part(all.next_after));
    all = { ...next, columns: concatenated(all.columns, next.columns), distributions: concatenated(all.distributions, next.distributions) };
  }
  return all;
}

/** @template {Record<string, any[]>} T @param {T} before @param {T} more @returns {T} */
function concatenated(before, more) {
  return /** @type {T} */ (Object.fromEntries(Object.keys(before).map((name) => [name, [...before[name], ...more[name]]])));
}

/** From a number as it is optimized to the one that is shown. @param {Summary} summary @param {Form} form @param {number} start */
function mapOf({ transform }, form, start) {
  if (form === "change") return (/** @type {number} */ value) => value - start;
  return form === "used" ? (TRANSFORMS[transform] ?? TRANSFORMS.identity) : TRANSFORMS.identity;
}

/** @param {Summary} summary @param {(value: number) => number} map */
function limitsOf({ least, largest }, map) {
  return [least, largest].flatMap((bound) => (bound == null ? [] : [{ value: map(bound), label: "bound" }]));
}

/** @param {Summary} summary */
function size({ shape }) {
  return shape.reduce((product, length) => product * length, 1);
}

/** @param {Summary} summary */
function note(summary) {
  const { shape, transform, of, least, largest, prior } = summary;
  const parts = [
    `${plural(size(summary), "entry", "entries")}${shape.length > 1 ? ` (${shape.map(count).join(" × ")})` : ""}`,
    of ? `of ${of}` : "",
    transform === "identity" ? "" : `the losses read its ${transform}`,
    least != null || largest != null ? `bounds ${least == null ? "−∞" : short(least)} … ${largest == null ? "∞" : short(largest)}` : "",
    prior ? `a level with the prior ${short(prior)}` : "",
  ];
  return parts.filter(Boolean).join(" · ");
}
