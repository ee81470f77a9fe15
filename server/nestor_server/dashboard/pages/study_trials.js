/** The table of a study's trials, with the options that differ among them as columns. */

import { ago, clock, count, duration, inline, percent, plural, signed } from "../format.js";
import { differing, flat, shortNames } from "../lists/options_table.js";
import { link } from "../route.js";
import { sortable, sortOf, tagLinks } from "../lists/tables.js";
import { number, state, verdict } from "../ui.js";
import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { repeat } from "../vendor/lit-html/directives/repeat.js";

/**
 * @typedef {import("../store.js").Schemas["TrialSummary"]} Trial
 * @typedef {object} How
 * @property {import("../store.js").Study} study
 * @property {Record<string, string>} query
 * @property {import("../lists/tables.js").To} to
 * @property {ReadonlySet<number>} selected
 * @property {number} mostSelected
 * @property {(trial: number, isSelected: boolean) => void} select
 * @property {(id: string | null) => void} point makes the curve of a trial stand out
 * @property {import("../lists/drawn_rows.js").DrawnRows} rows
 */

const MOST_OPTIONS = 12; // columns

/** @param {readonly Trial[]} trials @param {How} how */
export function trialTable(trials, how) {
  const { study, to } = how;
  const sort = sortOf(how.query, "number");
  const options = differing(trials.map(({ spec }) => flat(spec))).slice(0, MOST_OPTIONS);
  const names = shortNames(options);
  const columns = options.join(" ");
  const now = Date.now();
  const isFull = how.selected.size >= how.mostSelected;
  const better = study.direction === "maximize" ? "desc" : "asc";
  return html`<table class="list trials" @pointerleave=${() => how.point(null)}>
    <thead><tr>
      ${sortable("Trial", "number", sort, to)}
      ${sortable("State", "state", sort, to, { first: "asc" })}
      ${sortable("Best", "best_value", sort, to, { end: true, first: better, title: `The best value of any step: ${study.metric ?? "loss"}` })}
      <th scope="col" class="end" title="On the test examples, at the best step">Test</th>
      <th scope="col" class="end" title="The test value minus the best value: how much of it was fitted to the examples that chose the step">Test − best</th>
      <th scope="col" title="Whether the result can be relied on">Reliable</th>
      ${sortable("Steps", "step", sort, to, { end: true })}
      ${sortable("Trained", "seconds", sort, to, { end: true })}
      ${options.map((name) => html`<th scope="col" class="end" title=${name}><span class="option mono">${names[name]}</span></th>`)}
      <th scope="col" class="end">Active</th>
    </tr></thead>
    <tbody>${repeat(trials, ({ id }) => id, (trial) => {
      const shown = { age: ago(trial.last_activity_at, now), isSelected: how.selected.has(trial.number), isBest: trial.id === study.best_trial_id };
      return how.rows.row(trial.id, [trial, columns, how.query, isFull, ...Object.values(shown)], () => row(trial, options, shown, isFull, how));
    })}</tbody>
  </table>`;
}

/**
 * @param {Trial} trial @param {readonly string[]} options @param {{age: string, isSelected: boolean, isBest: boolean}} shown
 * @param {boolean} isFull whether no more can be selected @param {How} how
 */
function row(trial, options, { age, isSelected, isBest }, isFull, { to, select, point }) {
  const values = flat(trial.spec);
  const gap = trial.test_value_at_best == null || trial.best_value == null ? null : trial.test_value_at_best - trial.best_value;
  return html`<tr aria-selected=${String(isSelected)} class=${isBest ? "best" : ""} @pointerenter=${() => point(trial.id)}>
    <th scope="row" class="name">
      <input type="checkbox" aria-label=${`Select trial ${trial.number}`} .checked=${isSelected} ?disabled=${!isSelected && isFull}
        @change=${(/** @type {Event} */ event) => select(trial.number, /** @type {HTMLInputElement} */ (event.target).checked)}>
      <span><a class="open" href=${link("trial", trial.id)}>${trial.number}</a>
        ${isBest ? html`<strong>best</strong> ` : nothing}${trial.tunes ? nothing : html`<span class="muted" title="Its hyperparameters stay as they are">baseline</span> `}${
          trial.starts_from ? html`<a class="muted" href=${link("trial", trial.starts_from)} title="Started from another trial">↳ warm</a> ` : nothing}${tagLinks(trial.tags, to)}</span>
    </th>
    <td title=${trial.error?.detail ?? nothing}>${state(trial)}</td>
    <td class="end">${number(trial.best_value)}</td>
    <td class="end">${number(trial.test_value_at_best)}</td>
    <td class="end">${gap === null ? html`<span class="muted">–</span>` : html`<span title=${String(gap)}>${signed(gap)}</span>`}</td>
    <td>${verdict(trial.verdict)}</td>
    <td class="end">${steps(trial)}</td>
    <td class="end">${trial.seconds ? duration(trial.seconds) : html`<span class="muted">–</span>`}</td>
    ${options.map((name) => html`<td class="end option" title=${values[name] === undefined ? nothing : inline(values[name])}>${values[name] === undefined || values[name] === null ? html`<span class="muted">–</span>` : inline(values[name])}</td>`)}
    <td class="end" title=${clock(trial.last_activity_at)}>${age}</td>
  </tr>`;
}

/** @param {Trial} trial */
function steps({ number, step, n_steps, state, eta_seconds }) {
  if (state !== "running" && step === n_steps) return count(step);
  if (state !== "running") return html`${count(step)}<span class="muted"> of ${count(n_steps)}</span>`;
  return html`<span class="progress" title=${`${plural(step, "step")} of ${count(n_steps)}`}><progress max=${n_steps} value=${step} aria-label=${`Trial ${number}`}></progress
    ><span class="num">${percent(step / n_steps)}${eta_seconds == null ? nothing : html` · ${duration(eta_seconds)} left`}</span></span>`;
}
