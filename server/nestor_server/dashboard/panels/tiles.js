/** Four questions, each with one answer: better, believable, overfit, moved. */

import { count, percent, plural, short, signed } from "../format.js";
import { link } from "../route.js";
import { last } from "../store.js";
import { ANSWERS, number } from "../ui.js";
import { html, nothing, render } from "../vendor/lit-html/lit-html.js";
import { courses } from "./chosen.js";
import { gapStart } from "../charts/scales.js";

/** @typedef {import("../store.js").Snapshot} Snapshot @typedef {import("../store.js").Schemas} Schemas */
/** @typedef {{answer: unknown, text: unknown, kind?: "yes" | "with care" | "no"}} Tile */
/**
 * @typedef {object} Data
 * @property {Schemas["HyperparameterCourses"]} found
 * @property {Schemas["Confirmation"] | null} confirmation
 * @property {Schemas["TrialSummary"] | null} baseline
 */

const MANY = 100; // hyperparameters, above which validation examples alone say little

/** @type {import("./panel.js").MakePanel} */
export function tiles(element, app) {
  return {
    /** @param {Snapshot} snapshot */
    read: async ({ trial, study }) => ({
      found: await courses(app, trial),
      confirmation: await confirmed(app, trial),
      baseline: trial.tunes ? await app.store.baseline(study) : null,
    }),

    /** @param {Snapshot} snapshot @param {Data} data */
    show: (snapshot, { found, confirmation, baseline }) => {
      const questions = {
        "Did it get better?": better(snapshot, confirmation, baseline),
        "Can I believe the hypergradient?": believable(snapshot.trial.verdict),
        "Am I overfitting the validation set?": overfit(snapshot, found.entries),
        "Did anything move?": moved(found),
      };
      render(
        html`<section class="tiles" aria-label="Summary">
          ${Object.entries(questions).map(
            ([question, { answer, text, kind }]) =>
              html`<div class="panel tile"><h2>${question}</h2><p class="answer" data-answer=${kind ?? ""}>${answer}</p><p class="muted">${text}</p></div>`,
          )}
        </section>`,
        element,
      );
    },
  };
}

/** @param {import("../app.js").App} app @param {import("../store.js").Trial} trial @returns {Promise<Schemas["Confirmation"] | null>} */
async function confirmed(app, trial) {
  if (trial.state !== "complete" || trial.best_step == null || !trial.tunes) return null;
  return app.store.of(trial, "/confirmation");
}

/** @param {Snapshot} snapshot @param {Data["confirmation"]} confirmation @param {Data["baseline"]} baseline @returns {Tile} */
function better({ trial, study, steps }, confirmation, baseline) {
  const name = study.metric ?? "loss";
  if (trial.best_value == null) return { answer: "–", text: trial.step ? "No step was evaluated yet." : "It has taken no step yet." };
  const runs = confirmation?.runs.filter((run) => run.state === "complete" && run.value !== null && run.value !== undefined) ?? [];
  const again = runs.length ? html` Trained again under these hyperparameters: ${runs.map((run, i) => html`${i ? ", " : ""}${number(run.value)}`)}.` : nothing;
  const first = trial.first_value;
  const start = first == null ? nothing : html`, ${number(first)} at the start`;
  const fixed = baseline ? html` The <a href=${link("trial", baseline.id)}>baseline</a>, trial ${baseline.number}, reached ${number(baseline.best_value)}.` : nothing;
  const isFirst = first === trial.best_value && steps.value.filter((value) => value !== null).length > 1;
  return {
    answer: number(trial.best_value),
    kind: isFirst ? "with care" : undefined,
    text: html`${name} at step ${short(trial.best_step)}${start}.${isFirst ? " No later step was better." : nothing}${fixed}${again}`,
  };
}

/** @param {Schemas["Verdict"] | null | undefined} verdict @returns {Tile} */
function believable(verdict) {
  if (!verdict) return { answer: "–", text: "The first step decides." };
  return { answer: ANSWERS[verdict.answer], kind: verdict.answer, text: `${verdict.sentence} ${verdict.remedy}` };
}

/** @param {Snapshot} snapshot @param {number} entries @returns {Tile} */
function overfit({ steps }, entries) {
  const watched = ["test_loss", "held_out_loss"].find((name) => last(steps[name]) !== null);
  if (!watched) {
    const text = `${plural(entries, "hyperparameter")} ${entries === 1 ? "was" : "were"} fitted to the validation set, and nothing else watches. Add test= or early_stopping.`;
    return { answer: "Not measured", kind: entries > MANY ? "with care" : undefined, text };
  }
  const at = steps[watched].findLastIndex((value) => value !== null);
  const gap = Number(steps[watched][at]) - Number(steps.val_loss[at]);
  const name = watched === "test_loss" ? "test" : "held-out";
  const since = gapStart(steps.number, steps[watched], steps.val_loss);
  const widens = since === null ? "It has not widened." : `It has widened since step ${count(since)}.`;
  return { answer: signed(gap), text: `${name} loss minus validation loss, at step ${count(steps.number[at])}. ${widens}` };
}

/** @param {Schemas["HyperparameterCourses"]} found @returns {Tile} */
function moved(found) {
  const known = found.items.filter((item) => item.moved !== null && item.moved !== undefined);
  const weigh = (/** @type {(item: Schemas["HyperparameterCourse"]) => number} */ share, /** @type {Schemas["HyperparameterCourse"][]} */ items) =>
    items.reduce((sum, item) => sum + share(item) * item.entries, 0) / items.reduce((sum, item) => sum + item.entries, 0);
  const bound = found.items.length ? weigh((item) => item.latest?.at_bounds ?? 0, found.items) : 0;
  if (!known.length) return { answer: "–", text: found.n ? "Not recorded yet, or by an earlier version." : "No hyperparameter is recorded yet." };
  const share = weigh((item) => item.moved ?? 0, known);
  return {
    answer: percent(share),
    kind: share === 0 ? "no" : bound > 0.5 ? "with care" : undefined,
    text: `of ${plural(found.entries, "entry", "entries")} changed by more than 10 % of what the losses read at the start; ${percent(bound)} at a bound.`,
  };
}
