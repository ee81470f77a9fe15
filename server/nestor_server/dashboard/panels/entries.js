/** Single entries of the chosen hyperparameter: those that stand out, by name, with their course and their examples. */

import { address } from "../api.js";
import { spark } from "../charts/spark.js";
import { signed } from "../format.js";
import { number, panel, segmented } from "../ui.js";
import { html, nothing, render } from "../vendor/lit-html/lit-html.js";
import { chosen, courses, NAMED, pathOf } from "./chosen.js";

/**
 * @typedef {import("../store.js").Snapshot} Snapshot
 * @typedef {import("../store.js").Schemas} Schemas
 * @typedef {{info: import("./chosen.js").Course, top: Schemas["TopEntries"], values: Schemas["EntryValues"] | null, labels: Record<number, string>, pictures: boolean}} Data
 */

const ORDERS = { change: "moved most", gradient: "largest gradient", highest: "highest", lowest: "lowest" };
const SHOWN = 12; // entries
const POINTS = 40; // of a course
const THUMBNAIL = 4; // pixels along a pixel

/** @type {import("./panel.js").MakePanel} */
export function entries(element, app, soon) {
  let by = "change";
  return {
    /** @param {Snapshot} snapshot @param {import("../route.js").Route} route @returns {Promise<Data | null>} */
    read: async ({ trial }, route) => {
      const found = await courses(app, trial);
      const name = chosen(found, route);
      const info = found.items.find((item) => item.name === name);
      if (!name || (info && info.entries <= NAMED)) return null;
      const top = await app.store.of(trial, pathOf(name, "top"), { by, k: SHOWN });
      const index = top.items.map((/** @type {Schemas["TopEntry"]} */ item) => item.index).join(",");
      const values = index ? await app.store.of(trial, pathOf(name, "values"), { index, max_points: POINTS }) : null;
      return { top, values, ...(await examples(app, trial, top)), info: /** @type {any} */ (info) };
    },

    /** @param {Snapshot} snapshot @param {Data | null} data */
    show: ({ trial }, data) => {
      if (!data) return render(nothing, element);
      const { top, values } = data;
      const choose = (/** @type {string} */ order) => {
        by = order;
        soon();
      };
      const controls = segmented("Order of the entries", ORDERS, by, choose);
      const content = html`<div class="entries">
        ${top.items.map((item, i) => entry(trial.id, data, item, values && { steps: values.steps, values: values.values[i].map(Number) }))}
      </div>`;
      render(panel(`Entries of ${top.name}`, content, { controls, note: `at step ${top.step}; start → now` }), element);
    },
  };
}

/** @param {string} trial @param {Data} data @param {Schemas["TopEntry"]} item @param {{steps: readonly number[], values: number[]} | null} course */
function entry(trial, data, item, course) {
  const picture = data.pictures && address(`/trials/${trial}/examples/image.png`, { index: item.index, scale: THUMBNAIL });
  const label = data.labels[item.index];
  return html`<div class="entry">
    ${picture ? html`<img src=${picture} alt=${`Input of example ${item.index}`} loading="lazy">` : nothing}
    <div>
      <p class="mono">${item.name}${label === undefined ? nothing : html` <span class="tag">label ${label}</span>`}</p>
      <p>${number(Number(item.start))} → <strong>${number(Number(item.value))}</strong> <span class="muted">${signed(Number(item.change))}</span></p>
    </div>
    ${course ? spark(course, `Course of ${item.name}`) : nothing}
  </div>`;
}

/**
 * Labels of the training examples that entries belong to, if each entry belongs to one and the server has the data.
 * @param {import("../app.js").App} app @param {import("../store.js").Trial} trial @param {Schemas["TopEntries"]} top
 */
async function examples(app, trial, top) {
  const ofExamples = top.items.length > 0 && top.items.every((item) => item.name === `example ${item.index}`);
  if (!ofExamples) return { labels: {}, pictures: false };
  try {
    /** @type {Schemas["Examples"]} */
    const found = await app.store.of(trial, "/examples", { index: top.items.map((item) => item.index).join(",") });
    const [column] = Object.values(found.columns);
    const labels = column ? Object.fromEntries(found.index.map((example, at) => [example, String(column[at])])) : {};
    return { labels, pictures: Object.keys(found.pictures).length > 0 };
  } catch (error) {
    if (error instanceof Error && "status" in error && (error.status === 404 || error.status === 409)) return { labels: {}, pictures: false };
    throw error;
  }
}
