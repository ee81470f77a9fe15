/** How the hyperparameters of several trials are distributed at their last steps: a box for each, on one axis for each tensor. */

import { RequestRejected } from "../api.js";
import { axisRange } from "../charts/scales.js";
import { scale } from "../charts/ticks.js";
import { count, plural, short } from "../format.js";
import { pathOf } from "../panels/chosen.js";
import { empty } from "../ui.js";
import { html, svg } from "../vendor/lit-html/lit-html.js";

/**
 * @typedef {import("./compare.js").Compared} Compared
 * @typedef {import("../store.js").Schemas} Schemas
 * @typedef {Schemas["HyperparameterInfo"]} Info
 * @typedef {{name: string, entries: number, boxes: (readonly number[] | null)[]}} Tensor `boxes`: seven quantiles for each trial
 */

const MOST_TENSORS = 12;
const FEWEST_POINTS = 29; // that a summary can be asked for: only the last distribution is shown

/** The tensors that most of the trials tune. @param {import("../store.js").Store} store @param {readonly Compared[]} all @returns {Promise<Tensor[]>} */
export async function readDistributions(store, all) {
  const lists = await Promise.all(all.map(({ trial }) => named(store, trial)));
  /** @type {Map<string, {entries: number, in: Set<number>}>} */
  const tensors = new Map();
  lists.forEach((items, i) => {
    for (const { name, shape } of items) {
      const tensor = tensors.get(name) ?? { entries: shape.reduce((a, b) => a * b, 1), in: new Set() };
      tensor.in.add(i);
      tensors.set(name, tensor);
    }
  });
  const chosen = [...tensors].sort(([, a], [, b]) => b.in.size - a.in.size || b.entries - a.entries).slice(0, MOST_TENSORS);
  return Promise.all(
    chosen.map(async ([name, tensor]) => ({
      name,
      entries: tensor.entries,
      boxes: await Promise.all(all.map(({ trial }, i) => (tensor.in.has(i) ? box(store, trial, name) : null))),
    })),
  );
}

/** @param {import("../store.js").Store} store @param {Compared["trial"]} trial @returns {Promise<Info[]>} none before the first step */
async function named(store, trial) {
  try {
    return (await store.of(trial, "/hyperparameters")).items;
  } catch (error) {
    if (error instanceof RequestRejected && error.status === 404) return [];
    throw error;
  }
}

/** @param {import("../store.js").Store} store @param {Compared["trial"]} trial @param {string} name */
async function box(store, trial, name) {
  return lastBox(await store.of(trial, pathOf(name, "summary"), { max_points: FEWEST_POINTS }));
}

/** The quantiles at the last step. A single entry has none, and is its mean. @param {Schemas["HyperparameterSummary"]} summary */
function lastBox({ distributions, columns }) {
  const quantiles = distributions.quantiles.at(-1);
  const mean = columns.mean?.findLast((value) => value !== null);
  return quantiles ?? (mean === undefined || mean === null ? null : Array(7).fill(mean));
}

const WIDTH = 320, ROW = 14, MARGIN = 8;

/** @param {readonly Tensor[]} tensors @param {readonly Compared[]} all */
export function distributions(tensors, all) {
  if (!tensors.length) return empty("Nothing is recorded yet.");
  return html`<p class="readings">${all.map(({ trial, color }) => html`<span class=${color}><span class="swatch"></span>${trial.number}</span>`)}</p>
  <div class="boxes">${tensors.map((tensor) => {
    const values = tensor.boxes.flatMap((box) => box ?? []);
    const range = axisRange([[Math.min(...values), Math.max(...values)]]);
    const x = scale(range, MARGIN, WIDTH - MARGIN);
    return html`<figure>
      <figcaption><span class="mono">${tensor.name}</span> <span class="muted">${plural(tensor.entries, "entry", "entries")}</span></figcaption>
      ${values.length
        ? html`<svg viewBox="0 0 ${WIDTH} ${ROW * all.length}" role="img" aria-label=${label(tensor, all)}>
              ${tensor.boxes.map((box, i) => box && svg`<g class=${all[i].color} transform="translate(0 ${ROW * i})">
                <line class="range" x1=${x(box[0])} x2=${x(box[6])} y1="7" y2="7"></line>
                <line class="most" x1=${x(box[1])} x2=${x(box[5])} y1="7" y2="7"></line>
                <rect class="half" x=${x(box[2])} width=${Math.max(1, x(box[4]) - x(box[2]))} y="3" height="8"></rect>
                <line class="median" x1=${x(box[3])} x2=${x(box[3])} y1="1" y2="13"></line>
                <title>Trial ${all[i].trial.number}: ${box.map((value) => short(value)).join(" · ")}</title>
              </g>`)}
            </svg>
            <p class="ends muted"><span>${short(range[0])}</span><span>${short(range[1])}</span></p>`
        : html`<p class="muted">Not recorded.</p>`}
    </figure>`;
  })}</div>`;
}

/** @param {Tensor} tensor @param {readonly Compared[]} all */
function label({ name, boxes }, all) {
  const medians = boxes.map((box, i) => (box ? `trial ${count(all[i].trial.number)} ${short(box[3])}` : "")).filter(Boolean);
  return `Medians of ${name}: ${medians.join(", ")}`;
}
