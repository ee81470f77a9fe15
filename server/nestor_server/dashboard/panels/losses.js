/** Did it get better: all losses over the steps, the metric of the study, and when something was warned of. */

import { LineChart } from "../charts/line.js";
import { gapStart, isSame } from "../charts/scales.js";
import { count, plural } from "../format.js";
import { last } from "../store.js";
import { empty, number, panel } from "../ui.js";
import { html, nothing, render } from "../vendor/lit-html/lit-html.js";

/**
 * @typedef {import("../store.js").Snapshot} Snapshot @typedef {import("../store.js").Schemas} Schemas
 * @typedef {{warnings: Schemas["LogLine"][], metrics: Record<string, any[]> | null}} Data
 */

const MOST_WARNINGS = 100, SHOWN = 3;
const METRIC_POINTS = 500;
const [HEIGHT, METRIC_HEIGHT] = matchMedia("(max-width: 640px)").matches ? [290, 140] : [460, 160];

/** The losses by column, the one on top first. Dense ones are noisy, so they are smoothed. */
const LOSSES = {
  val_loss: { name: "validation", color: "--validation", width: 2, smoothed: true },
  held_out_loss: { name: "held-out", color: "--held-out", smoothed: false },
  test_loss: { name: "test", color: "--test", smoothed: false },
  train_loss: { name: "training", color: "--train", width: 1, smoothed: true },
};

/** @type {import("./panel.js").MakePanel} */
export function losses(element, app) {
  const look = { robust: true, log: false, smooth: true };
  let chart = /** @type {LineChart | null} */ (null);
  const metricChart = new LineChart(app.cursor, { label: "Metric over steps", height: METRIC_HEIGHT });
  const list = document.createElement("div");
  let warnings = /** @type {Schemas["LogLine"][]} */ ([]);
  const unfollow = app.cursor.follow(() => render(warningList(warnings, app.cursor), list));
  let again = () => {};
  let drawn = /** @type {unknown[]} */ ([]);
  const toggles = () => html`<div class="segmented" role="group" aria-label="How the losses are drawn">
    ${Object.entries(look).map(
      ([name, on]) => html`<button type="button" aria-pressed=${String(on)} title=${TITLES[/** @type {keyof typeof look} */ (name)]}
        @click=${() => (Object.assign(look, { [name]: !on }), again())}>${name}</button>`,
    )}
  </div>`;

  return {
    /** @param {Snapshot} snapshot @returns {Promise<Data>} */
    read: async ({ trial, study }) => {
      if (!trial.step) return { warnings: [], metrics: null };
      const [log, steps] = await Promise.all([
        app.store.of(trial, "/logs", { level: "warning", limit: MOST_WARNINGS }),
        study.metric ? app.store.of(trial, "/steps", { columns: "number,value,metrics,test_metrics", max_points: METRIC_POINTS }) : null,
      ]);
      return { warnings: log.items, metrics: steps?.columns ?? null };
    },

    /** @param {Snapshot} snapshot @param {Data} data */
    show: ({ trial, study, steps }, data) => {
      if (!steps.number.length) return void render(panel("Losses", waiting(trial)), element);
      again = () => {
        warnings = data.warnings;
        render(warningList(warnings, app.cursor), list);
        const metric = data.metrics && study.metric ? metricContent(trial, study.metric, steps, data.metrics) : null;
        const inputs = [trial, steps, data.warnings, data.metrics, ...Object.values(look)];
        if (!isSame(inputs, drawn)) {
          chart ??= new LineChart(app.cursor, { label: "Losses over steps", height: metric ? HEIGHT - METRIC_HEIGHT / 2 : HEIGHT });
          chart.show(content(trial, study, steps, look, warnings));
          if (metric) metricChart.show(metric);
          drawn = inputs;
        }
        render(
          panel("Losses", html`${chart?.element}${metric ? html`<h3>${study.metric}</h3>${metricChart.element}` : nothing}${list}`, { controls: toggles() }),
          element,
        );
      };
      again();
    },

    destroy: () => {
      unfollow();
      chart?.destroy();
      metricChart.destroy();
    },
  };
}

const TITLES = {
  robust: "Outliers may be beyond the axis, where triangles mark them",
  log: "A logarithmic axis",
  smooth: "A mean over neighboring steps; the values themselves are faint",
};

/** What is shown before the first step. @param {Schemas["Trial"]} trial */
function waiting(trial) {
  if (trial.state === "running") return empty("The first step is being computed.");
  if (trial.finished_at) return empty("It ended before its first step, so there are no losses.");
  return empty("It has taken no step yet.");
}

/**
 * @param {Schemas["Trial"]} trial @param {Schemas["Study"]} study @param {import("../store.js").Steps} steps
 * @param {{robust: boolean, log: boolean, smooth: boolean}} look @param {Schemas["LogLine"][]} warnings
 * @returns {import("../charts/line.js").Content}
 */
function content(trial, study, steps, look, warnings) {
  const known = Object.entries(LOSSES).filter(([column]) => last(steps[column]) !== null);
  const watched = ["held_out_loss", "test_loss"].find((column) => last(steps[column]) !== null);
  const from = watched ? gapStart(steps.number, steps[watched], steps.val_loss) : null;
  const upper = watched ? LOSSES[/** @type {"test_loss"} */ (watched)].name : "";
  const isHeldOut = last(steps.held_out_loss) !== null;
  const best = study.metric === null && trial.best_step != null && trial.best_value != null
    ? { step: trial.best_step, value: trial.best_value, color: isHeldOut ? "--held-out" : "--validation" } : null;
  return {
    steps: steps.number,
    curves: known.map(([column, style]) => ({ ...style, smoothed: look.smooth && style.smoothed, values: steps[column] })),
    robust: look.robust,
    log: look.log,
    gap: from === null ? null : { upper, lower: "validation", from },
    marks: [...new Set(warnings.map(({ step }) => Math.max(step, steps.number[0])))],
    best,
    note: html`${best ? bestNote(trial) : nothing}${from === null ? nothing : html`<span class="muted">gap widens since step ${count(from)}</span>`}`,
  };
}

/** @param {Schemas["Trial"]} trial @param {string} metric @param {import("../store.js").Steps} steps @param {Record<string, any[]>} columns @returns {import("../charts/line.js").Content | null} */
function metricContent(trial, metric, steps, columns) {
  const valuesOf = (/** @type {string} */ column) => columns[column].map((metrics) => metrics?.[metric] ?? null);
  const isHeldOut = last(steps.held_out_loss) !== null;
  const color = isHeldOut ? "--held-out" : "--validation";
  const curves = [
    { name: isHeldOut ? "held-out" : "validation", color, width: 2, values: valuesOf("metrics") },
    { name: "test", color: "--test", values: valuesOf("test_metrics") },
  ].filter(({ values }) => last(values) !== null);
  if (!curves.length) return null;
  const best = trial.best_step != null && trial.best_value != null ? { step: trial.best_step, value: trial.best_value, color } : null;
  return { steps: columns.number, curves, robust: true, best, note: best ? bestNote(trial) : nothing };
}

/** @param {Schemas["Trial"]} trial */
function bestNote(trial) {
  return html`<span class="key"><svg class="swatch" width="12" height="12" aria-hidden="true"><circle class="best" cx="6" cy="6" r="4.5"></circle></svg>best
    <b>${number(trial.best_value)}</b> at step ${count(Number(trial.best_step))}</span>`;
}

/** @param {Schemas["LogLine"][]} warnings @param {import("../cursor.js").Cursor} cursor */
function warningList(warnings, cursor) {
  if (!warnings.length) return nothing;
  const row = (/** @type {Schemas["LogLine"]} */ { step, text }) => html`<li aria-current=${step === cursor.step ? "true" : nothing}>
    <button type="button" class="link num" title="Move the cursor of all charts there" @click=${() => cursor.set(step)}>▼ step ${count(step)}</button> ${text}</li>`;
  const more = warnings.slice(SHOWN);
  return html`<ul class="warnings" aria-label="Warnings">${warnings.slice(0, SHOWN).map(row)}</ul>
    ${more.length ? html`<details><summary>${plural(more.length, "more warning")}</summary><ul class="warnings">${more.map(row)}</ul></details>` : nothing}`;
}
