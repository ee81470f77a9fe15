/** Up to ten trials side by side. A color means the same trial everywhere on the page. */

import { get, RequestRejected } from "../api.js";
import { Overlay } from "../charts/overlay.js";
import { newestAt, thinned } from "../charts/scales.js";
import { count, duration, inline, short, signed } from "../format.js";
import { differing, flat } from "../lists/options_table.js";
import { LONG, SHORT } from "../poll.js";
import { link } from "../route.js";
import { empty, number, panel, segmented, skeleton, state, verdict } from "../ui.js";
import { html, nothing, render } from "../vendor/lit-html/lit-html.js";
import { distributions, readDistributions } from "./compare_distributions.js";
import { missing } from "./missing.js";

/**
 * @typedef {import("../store.js").Study} Study
 * @typedef {import("../store.js").Steps} Steps
 * @typedef {import("../store.js").Schemas["TrialSummary"]} Trial
 * @typedef {{trial: Trial, steps: Steps, color: string}} Compared `color`: the class that sets it
 * @typedef {{study: Study, all: Compared[], missing: number[], tensors: import("./compare_distributions.js").Tensor[]}} Shown
 */

const MOST = 10; // trials, because more colors cannot be distinguished
const MOST_POINTS = 600; // of a curve that is drawn

/** Losses that can be overlaid, by their columns in the steps. @type {Record<string, string>} */
const LOSSES = { value: "Loss", val_loss: "Validation batches", train_loss: "Training batches", held_out_loss: "Held-out loss", test_loss: "Test loss" };
const METRIC = "metric"; // of the study

/** @param {import("../app.js").App} app @param {import("../route.js").Route} route @returns {import("../app.js").Page} */
export function comparePage(app, route) {
  const element = document.createElement("main");
  render(skeleton(), element);
  app.heading([{ text: "…" }], "Comparison");
  const plot = document.createElement("div");
  plot.className = "plot";
  let shown = /** @type {Shown | null} */ (null);
  let step = /** @type {number | null} */ (null); // under the pointer
  const overlay = new Overlay(plot, "Courses of the compared trials", (point) => {
    step = point?.step ?? null;
    draw();
  });

  const watch = app.polls.watch({
    read: async () => {
      const numbers = numbersOf(route.query);
      try {
        const [study, ...found] = await Promise.all([app.store.study(route.id), ...numbers.map((one) => byNumber(route.id, one))]);
        const trials = /** @type {Trial[]} */ (found.filter((one) => one !== null));
        const steps = await Promise.all(trials.map((trial) => app.store.steps(trial)));
        const all = trials.map((trial, i) => ({ trial, steps: steps[i], color: `trial-color-${numbers.indexOf(trial.number)}` }));
        return { study, all, missing: numbers.filter((_, i) => found[i] === null), tensors: await readDistributions(app.store, all) };
      } catch (error) {
        if (error instanceof RequestRejected && error.status === 404) return null;
        throw error;
      }
    },
    show: (/** @type {Shown | null} */ read) => {
      shown = read;
      if (!read) {
        render(missing("There is no such study", "It was archived, or it belongs to another user.", "#/"), element);
        app.heading([{ text: "Study not found" }], "Study not found");
        return LONG;
      }
      const title = `Comparison of ${read.all.length} trials`;
      app.heading([{ text: read.study.name, href: link("study", read.study.id) }, { text: title }], `${title} · ${read.study.name}`);
      draw();
      return read.all.some(({ trial }) => trial.state === "running") ? SHORT : LONG;
    },
  });

  const draw = () => {
    if (!shown) return;
    const { study, all } = shown;
    const found = Object.entries(LOSSES).filter(([column]) => all.some(({ steps }) => steps[column]?.some((value) => value !== null)));
    const choices = { ...(study.metric !== null && { [METRIC]: study.metric }), ...Object.fromEntries(found) };
    const chosen = route.query.curve in choices ? route.query.curve : Object.keys(choices)[0];
    const curves = all.map((one) => curve(one, chosen));
    const choose = (/** @type {string} */ curve) => app.replace(link("compare", study.id, { ...route.query, curve }));
    const numbers = (/** @type {number} */ without) => numbersOf(route.query).filter((one) => one !== without).join(",");
    render(
      html`<header class="toolbar page-head"><h1>${all.length} trials of <a href=${link("study", study.id)}>${study.name}</a></h1></header>
        ${shown.missing.length ? html`<p class="muted">Not found: trial ${shown.missing.join(", ")}.</p>` : nothing}
        ${all.length
          ? html`<section class="panel" aria-label="Courses">
                <header><h2>Over steps</h2>${segmented("Curve", choices, chosen, choose)}</header>
                ${plot}
                <p class="readings">${step === null ? html`<span class="muted">Last values</span>` : html`<span class="muted">Step ${count(step)}</span>`}
                  ${all.map(({ trial, color }, i) => html`<span class=${color}><span class="swatch"></span>${trial.number} <strong>${valueAt(curves[i], step)}</strong></span>`)}</p>
              </section>
              <section class="panel flush" aria-label="Results and options">
                <header><h2>Results, and the options that differ</h2></header>
                <div class="scroll" tabindex="0">${resultTable(study, all, (trial) => link("compare", study.id, { ...route.query, trials: numbers(trial) }))}</div>
              </section>
              ${panel("Hyperparameters at the end", distributions(shown.tensors, all), { note: "their range, 5–95 %, middle half and median of the entries, before the transform" })}`
          : html`<section class="panel">${empty("Nothing to compare.", html`<p><a href=${link("study", study.id)}>Select trials of the study</a></p>`)}</section>`}`,
      element,
    );
    overlay.show(curves);
  };

  return {
    element,
    changed: (changed) => {
      route = changed;
      draw();
      watch.soon();
    },
    destroy: () => {
      watch.stop();
      overlay.destroy();
    },
  };
}

/** The numbers of the trials in the address. @param {Record<string, string>} query */
function numbersOf(query) {
  const given = (query.trials ?? "").split(",").filter((text) => /^\d{1,9}$/.test(text)).map(Number);
  return [...new Set(given)].slice(0, MOST);
}

/** @param {string} study @param {number} number @returns {Promise<Trial | null>} */
async function byNumber(study, number) {
  return (await get(`/studies/${study}/trials`, { number })).items[0] ?? null;
}

/** @param {Compared} compared @param {string} name @returns {import("../charts/overlay.js").Curve} */
function curve({ trial, steps, color }, name) {
  const kind = `${color} ${trial.tunes ? "" : "dashed"}`;
  if (name === METRIC) return { key: trial.id, kind, steps: trial.sparkline.steps ?? [], values: trial.sparkline.values ?? [] };
  const values = steps[name] ?? [];
  const kept = thinned(steps.number, [values], MOST_POINTS);
  return { key: trial.id, kind, steps: kept.map((i) => steps.number[i]), values: kept.map((i) => values[i]) };
}

/** The newest value at a step or before it; null: the last one. @param {import("../charts/overlay.js").Curve} curve @param {number | null} step */
function valueAt({ steps, values }, step) {
  return short(values[newestAt(steps, values, step)]);
}

/** A column for each trial. @param {Study} study @param {readonly Compared[]} all @param {(trial: number) => string} without the address without a trial */
function resultTable(study, all, without) {
  const options = differing(all.map(({ trial }) => flat(trial.spec)));
  const best = bestOf(study, all);
  /** @param {string} name @param {(trial: Trial) => unknown} cell @param {string} [title] */
  const row = (name, cell, title) => html`<tr><th scope="row" title=${title ?? nothing}>${name}</th>${all.map(({ trial }) => html`<td>${cell(trial)}</td>`)}</tr>`;
  return html`<table class="list compared">
    <thead><tr><th scope="col"><span class="sr-only">What</span></th>${all.map(
      ({ trial, color }) => html`<th scope="col" class=${color}><span class="swatch"></span><a href=${link("trial", trial.id)}>Trial ${trial.number}</a>
        ${all.length > 1 ? html`<a class="muted" href=${without(trial.number)} title="Leave it out" aria-label=${`Leave out trial ${trial.number}`}>✕</a>` : nothing}</th>`,
    )}</tr></thead>
    <tbody>
      ${row("State", (trial) => state(trial))}
      ${row("Reliable", (trial) => html`${verdict(trial.verdict)}<span class="why muted" title=${trial.verdict?.sentence ?? nothing}>${trial.verdict?.sentence ?? ""}</span>`)}
      ${row(`Best ${study.metric ?? "loss"}`, (trial) => (trial.id === best ? html`<strong>${number(trial.best_value)}</strong> best` : number(trial.best_value)))}
      ${row("Test", (trial) => number(trial.test_value_at_best), "On the test examples, at the best step")}
      ${row("Test − best", ({ test_value_at_best: test, best_value: value }) => (test == null || value == null ? "–" : signed(test - value)))}
      ${row("Steps", (trial) => `${count(trial.step)} of ${count(trial.n_steps)}`)}
      ${row("Best step", (trial) => (trial.best_step == null ? "–" : count(trial.best_step)))}
      ${row("Trained", (trial) => duration(trial.seconds))}
      ${options.map((name) => html`<tr><th scope="row" class="mono">${name}</th>${all.map(({ trial }) => {
        const value = flat(trial.spec)[name];
        return html`<td class="mono">${value === undefined || value === null ? "–" : inline(value)}</td>`;
      })}</tr>`)}
    </tbody>
  </table>
  ${options.length ? nothing : html`<p class="muted same">All options are the same.</p>`}`;
}

/** The id of the best of these. @param {Study} study @param {readonly Compared[]} all */
function bestOf(study, all) {
  const sign = study.direction === "maximize" ? -1 : 1;
  const ranked = all.map(({ trial }) => trial).filter((trial) => trial.best_value != null && trial.tunes);
  return ranked.sort((a, b) => sign * (Number(a.best_value) - Number(b.best_value)))[0]?.id;
}
