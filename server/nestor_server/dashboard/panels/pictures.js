/** The chosen hyperparameter as a picture, at any step that has a snapshot: distilled examples, or a matrix as a heat map. */

import { address } from "../api.js";
import { count } from "../format.js";
import { panel } from "../ui.js";
import { html, nothing, render } from "../vendor/lit-html/lit-html.js";
import { live } from "../vendor/lit-html/directives/live.js";
import { chosen, courses, pathOf } from "./chosen.js";

/** @typedef {import("../store.js").Snapshot} Snapshot */
/** @typedef {{shape: readonly number[], name: string, steps: readonly number[]}} Data */

const SIDE = 460; // pixels of the whole, about: two of them are side by side

/** @type {import("./panel.js").MakePanel} */
export function pictures(element, app, soon) {
  let at = /** @type {number | null} */ (null); // index of the step that is shown; null: the newest, as they come
  return {
    /** @param {Snapshot} snapshot @param {import("../route.js").Route} route @returns {Promise<Data | null>} */
    read: async ({ trial }, route) => {
      const found = await courses(app, trial);
      const name = chosen(found, route);
      const info = name ? await app.store.of(trial, "/hyperparameters") : null;
      const shape = info?.items.find((/** @type {{name: string}} */ item) => item.name === name)?.shape;
      return shape && isDrawn(shape) && info.steps.length ? { shape, name, steps: info.steps } : null;
    },

    /** @param {Snapshot} snapshot @param {Data | null} data */
    show: (snapshot, data) => {
      if (!data) return render(nothing, element);
      const { trial } = snapshot;
      const { steps, name, shape } = data;
      const position = Math.min(at ?? steps.length - 1, steps.length - 1);
      const pick = (/** @type {Event} */ event) => {
        const value = /** @type {HTMLInputElement} */ (event.target).valueAsNumber;
        at = value === steps.length - 1 ? null : value;
        app.cursor.set(steps[value]);
        soon();
      };
      const source = (/** @type {number} */ step) => address(`/trials/${trial.id}${pathOf(name, "image.png")}`, { step, scale: scale(shape) });
      const grid = shape.length > 2;
      const note = grid ? `${count(shape[0])} pictures of ${shape.slice(1).join(" × ")}` : `${shape.join(" × ")}, rows downward; large ones are averaged`;
      const controls = html`<label class="scrub">Step <output class="num">${count(steps[position])}</output>
        <input type="range" min="0" max=${steps.length - 1} .value=${live(String(position))} @input=${pick} aria-valuetext=${`step ${steps[position]}`}></label>`;
      const shown = [...new Set([steps[0], steps[position]])];
      const content = html`<div class="pictures">${shown.map(
        (step) => html`<figure><img src=${source(step)} alt=${`${name} at step ${step}`}><figcaption class="muted">step ${count(step)}${step === 0 ? ", the start" : ""}</figcaption></figure>`,
      )}</div>`;
      render(panel(grid ? `Pictures of ${name}` : `Map of ${name}`, content, { note, controls }), element);
    },
  };
}

/** Grids of gray or RGB pictures, and matrices; a vector says no more than its quantiles. @param {readonly number[]} shape */
function isDrawn(shape) {
  if (shape.length === 2) return shape[0] > 1 && shape[1] > 1;
  return shape.length === 3 || (shape.length === 4 && (shape[1] === 1 || shape[1] === 3));
}

/** Pixels along an entry, so that the whole has a good size. @param {readonly number[]} shape */
function scale(shape) {
  const cells = shape.length === 2 ? Math.max(...shape.map((n) => Math.min(n, 256))) : Math.max(...shape.slice(-2)) * Math.ceil(Math.sqrt(Math.min(shape[0], 100)));
  return Math.max(1, Math.min(16, Math.floor(SIDE / cells)));
}
