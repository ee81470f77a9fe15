/** The specification of the trial: the options that differ from their defaults, and behind them the others. */

import { inline } from "../format.js";
import { panel } from "../ui.js";
import { html, nothing, render } from "../vendor/lit-html/lit-html.js";

/** @typedef {import("../store.js").Snapshot} Snapshot @typedef {import("../store.js").Schemas} Schemas */

/** @type {import("./panel.js").MakePanel} */
export function options(element, app) {
  return {
    /** @param {Snapshot} snapshot */
    read: ({ trial }) => app.store.of(trial, "/options"),

    /** @param {Snapshot} snapshot @param {Schemas["TrialOptions"]} found */
    show: (snapshot, { items }) => {
      const [set, defaults] = [items.filter((item) => !item.is_default), items.filter((item) => item.is_default)];
      const content = html`${list(set)}
        ${defaults.length ? html`<details><summary>${defaults.length} with their defaults</summary>${list(defaults)}</details>` : nothing}`;
      render(panel("Specification", content), element);
    },
  };
}

/** @param {Schemas["TrialOption"][]} items */
function list(items) {
  return html`<dl class="facts">${items.map(
    ({ name, value, is_default, default: usual }) =>
      html`<dt class="mono">${name}</dt><dd>${inline(value)}${is_default || usual === null || usual === undefined ? nothing : html` <span class="muted">default ${inline(usual)}</span>`}</dd>`,
  )}</dl>`;
}
