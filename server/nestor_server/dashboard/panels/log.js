/** What the trial has logged, newest first, and its records as files. */

import { address } from "../api.js";
import { clock, count } from "../format.js";
import { empty, panel, segmented } from "../ui.js";
import { html, nothing, render } from "../vendor/lit-html/lit-html.js";
import { repeat } from "../vendor/lit-html/directives/repeat.js";

/** @typedef {import("../store.js").Snapshot} Snapshot @typedef {import("../store.js").Schemas} Schemas */

const PAGE = 1_000; // lines of one answer
const SHOWN = 200;

/** @type {import("./panel.js").MakePanel} */
export function log(element, app, soon) {
  let level = "info";
  let lines = /** @type {Schemas["LogLine"][]} */ ([]);
  let known = ""; // the level of `lines`
  return {
    /** @param {Snapshot} snapshot */
    read: async ({ trial }) => {
      if (known !== level) [lines, known] = [[], level];
      for (let after = lines.at(-1)?.seq ?? 0; ; ) {
        const page = await app.store.of(trial, "/logs", { level, after, limit: PAGE });
        // Only the newest are kept: the whole log is in the downloads of the API.
        if (page.items.length) lines = [...lines, ...page.items].slice(-SHOWN);
        if (page.next_after === null) return;
        after = page.next_after;
      }
    },

    /** @param {Snapshot} snapshot */
    show: ({ trial }) => {
      const choose = (/** @type {string} */ chosen) => {
        level = chosen;
        soon();
      };
      const controls = segmented("Level", { info: "all", warning: "warnings" }, level, choose);
      const content = lines.length
        ? html`<ol class="log" tabindex="0" aria-label="Lines of the log, newest first">
            ${repeat(lines.toReversed(), (line) => line.seq, (line) => html`<li data-level=${line.level}>
              <span class="muted num" title=${line.at}>${clock(line.at)}</span> <span class="muted num">step ${count(line.step)}</span> ${line.text}</li>`)}
          </ol>`
        : empty(level === "warning" ? "No warnings." : "Nothing is logged yet.");
      const files = html`<p class="downloads muted">Download
        <a href=${address(`/trials/${trial.id}/steps.csv`)} download>steps (CSV)</a> ·
        <a href=${address(`/trials/${trial.id}/hyperparameters.safetensors`)} download>hyperparameters (safetensors)</a>${trial.best_step == null
          ? nothing
          : html` · <a href=${address(`/trials/${trial.id}/checkpoint.safetensors`, { step: "best" })} download>best weights (safetensors)</a>`}</p>`;
      render(panel("Log", html`${content}${files}`, { controls, note: lines.length === SHOWN ? `the newest ${SHOWN} lines` : nothing }), element);
    },
  };
}
