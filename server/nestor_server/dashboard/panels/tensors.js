/** All hyperparameters, one row each: how they are distributed, how much they moved, and their part in the hypergradient. */

import { bandSpark } from "../charts/spark.js";
import { count, percent, plural } from "../format.js";
import { link } from "../route.js";
import { empty, number, panel } from "../ui.js";
import { html, nothing, render } from "../vendor/lit-html/lit-html.js";
import { chosen, courses, FEW, MANY } from "./chosen.js";

/** @typedef {import("../store.js").Snapshot} Snapshot @typedef {import("./chosen.js").Courses} Courses */

/** @type {import("./panel.js").MakePanel} */
export function tensors(element, app, soon) {
  let limit = FEW;
  return {
    /** @param {Snapshot} snapshot */
    read: ({ trial }) => courses(app, trial, limit),

    /** @param {Snapshot} snapshot @param {Courses} found @param {import("../route.js").Route} route */
    show: ({ trial }, found, route) => {
      const note = `${plural(found.entries, "entry", "entries")} in ${plural(found.n, "tensor")}`;
      const name = chosen(found, route);
      const choose = (/** @type {string} */ tensor) => app.replace(link("trial", trial.id, { ...route.query, tensor }));
      const more = () => {
        limit = MANY;
        soon();
      };
      const hidden = found.n - found.items.length;
      const content = found.items.length
        ? html`<div class="scroll" tabindex="0"><table class="tensors">
            <thead><tr>
              <th scope="col">Tensor</th><th scope="col" class="end">Entries</th><th scope="col">Distribution over steps</th>
              <th scope="col" class="end">Median</th><th scope="col" class="end">5–95 %</th>
              <th scope="col" class="end" title="Entries that changed by more than 10 % of what the losses read at the start">Moved</th>
              <th scope="col" class="end">At bound</th><th scope="col" class="end" title="Share of the squared norm of the newest hypergradient">Share of ‖g‖²</th>
            </tr></thead>
            <tbody>${found.items.map((item) => row(item, item.name === name, choose))}</tbody>
          </table></div>
          ${hidden > 0 && limit === FEW ? html`<button type="button" @click=${more}>Show ${count(Math.min(hidden, MANY - FEW))} more</button>` : nothing}
          ${hidden > 0 && limit === MANY ? html`<p class="muted">${count(hidden)} more have a smaller share.</p>` : nothing}`
        : empty("Nothing is recorded yet.", html`<p>The first step shows what is tuned.</p>`);
      render(panel("Hyperparameters", content, { note }), element);
    },
  };
}

/** @param {import("./chosen.js").Course} item @param {boolean} isChosen @param {(name: string) => void} choose */
function row(item, isChosen, choose) {
  const newest = item.course.quantiles.at(-1);
  return html`<tr aria-current=${isChosen ? "true" : nothing}>
    <th scope="row" class="wrap"><button type="button" class="link mono" aria-pressed=${String(isChosen)} @click=${() => choose(item.name)}>${item.name}</button></th>
    <td class="end">${count(item.entries)}</td>
    <td>${bandSpark(item.course, `Quantiles of ${item.name} over the steps`)}</td>
    <td class="end">${number(newest?.[3])}</td>
    <td class="end">${newest && item.entries > 1 ? html`${number(newest[1])} … ${number(newest[5])}` : "–"}</td>
    <td class="end">${percent(item.moved)}</td>
    <td class="end">${item.latest ? percent(item.latest.at_bounds) : "–"}</td>
    <td class="end">${percent(item.share)}</td>
  </tr>`;
}
