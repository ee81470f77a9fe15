/** The specification of the trial: the options that differ from their defaults, and behind them the others. */

import { inline, plural } from "../format.js";
import { panel } from "../ui.js";
import { html, nothing, render } from "../vendor/lit-html/lit-html.js";

/** @typedef {import("../store.js").Snapshot} Snapshot @typedef {import("../store.js").Schemas} Schemas */

const KINDS = { preset: "Preset", program: "Program", entry_point: "Entry point" };
const NAME = 24; // characters; a digest is longer, and its beginning is enough to recognize it

/** @type {import("./panel.js").MakePanel} */
export function options(element, app) {
  return {
    /** @param {Snapshot} snapshot */
    read: ({ trial }) => app.store.of(trial, "/options"),

    /** @param {Snapshot} _snapshot @param {Schemas["TrialOptions"]} found */
    show: (_snapshot, { problem, items }) => {
      const [set, defaults] = [items.filter((item) => !item.is_default), items.filter((item) => item.is_default)];
      const content = html`<p>${KINDS[problem.kind]} <span class="mono" title=${problem.name}>${problem.name.slice(0, NAME)}</span>${sizes(problem)}</p>
        ${list(set)}
        ${defaults.length ? html`<details><summary>${defaults.length} with their defaults</summary>${list(defaults)}</details>` : nothing}`;
      render(panel("Specification", content), element);
    },
  };
}

/** @param {Schemas["ProblemSummary"]} problem */
function sizes({ parameters, hyperparameters }) {
  const known = [[parameters, "parameter"], [hyperparameters, "hyperparameter"]].filter(([n]) => n != null);
  return known.map(([n, word]) => ` · ${plural(Number(n), String(word))}`).join("");
}

/** @param {readonly Schemas["OptionRow"][]} items */
function list(items) {
  return html`<dl class="facts">${items.map(
    ({ name, value, is_default, default: usual }) =>
      html`<dt class="mono">${name}</dt><dd>${inline(value)}${is_default || usual === null || usual === undefined ? nothing : html` <span class="muted">default ${inline(usual)}</span>`}</dd>`,
  )}</dl>`;
}
