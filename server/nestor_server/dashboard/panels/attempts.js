/** Which workers have run the trial, when, and why each attempt ended. */

import { clock, duration } from "../format.js";
import { empty, panel, state } from "../ui.js";
import { html, nothing, render, svg } from "../vendor/lit-html/lit-html.js";

/** @typedef {import("../store.js").Snapshot} Snapshot @typedef {import("../store.js").Schemas} Schemas */

/** @type {import("./panel.js").MakePanel} */
export function attempts(element, app) {
  return {
    /** @param {Snapshot} snapshot */
    read: ({ trial }) => app.store.of(trial, "/attempts"),

    /** @param {Snapshot} snapshot @param {Schemas["Attempts"]} found */
    show: ({ trial }, { items }) => {
      const content = items.length
        ? html`${timeline(trial, items)}
            <ol class="attempts">${items.toReversed().map(
              (attempt) => html`<li>
                <strong>${attempt.number}</strong> ${state(attempt)} <span class="mono">${attempt.worker ?? ""}</span>
                <span class="muted num">${clock(attempt.started_at)} · ${duration(seconds(attempt))}</span>
                ${attempt.why ? html`<br><span class="muted">${attempt.why}</span>` : nothing}
              </li>`,
            )}</ol>`
        : empty("It waits for a worker.");
      render(panel("Attempts", content), element);
    },
  };
}

/** @param {Schemas["Attempt"]} attempt */
function seconds(attempt) {
  return ((attempt.ended_at ? Date.parse(attempt.ended_at) : Date.now()) - Date.parse(attempt.started_at)) / 1000;
}

/** The attempts as bars from the submission until the end. @param {import("../store.js").Trial} trial @param {readonly Schemas["Attempt"][]} items */
function timeline(trial, items) {
  const from = Date.parse(trial.created_at), until = trial.finished_at ? Date.parse(trial.finished_at) : Date.now();
  const x = (/** @type {number} */ time) => (1000 * (time - from)) / Math.max(1, until - from);
  return html`<svg class="timeline" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label="Attempts since the submission">
    <rect class="wait" width="1000" height="10"></rect>
    ${items.map((attempt) => {
      const start = x(Date.parse(attempt.started_at)), end = x(attempt.ended_at ? Date.parse(attempt.ended_at) : until);
      return svg`<rect data-state=${attempt.state} x=${start} width=${Math.max(3, end - start)} height="10"></rect>`;
    })}
  </svg>`;
}
