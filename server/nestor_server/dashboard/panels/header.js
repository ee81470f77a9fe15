/** What the trial is doing, where it comes from, and what can be done with it. */

import { actionButtons, mayWrite } from "../actions.js";
import { send, serverAddress } from "../api.js";
import { duration, inline, short } from "../format.js";
import { link } from "../route.js";
import { progress, snippet, state, tagList } from "../ui.js";
import { html, nothing, render } from "../vendor/lit-html/lit-html.js";

/** @typedef {import("../store.js").Snapshot} Snapshot @typedef {import("../store.js").Schemas} Schemas */

/** @type {import("./panel.js").MakePanel} */
export function header(element, app, soon) {
  return {
    /** @param {Snapshot} snapshot @returns {Promise<Schemas["Attempt"][]>} */
    read: async ({ trial }) => (trial.attempt > 1 ? (await app.store.of(trial, "/attempts")).items : []),

    /** @param {Snapshot} snapshot @param {Schemas["Attempt"][]} attempts */
    show: ({ trial, study }, attempts) => {
      const ended = attempts.findLast((attempt) => attempt.ended_at && attempt.why);
      const facts = [
        progress(trial),
        trial.steps_per_second == null ? nothing : html`${short(trial.steps_per_second)} steps/s`,
        trial.eta_seconds == null ? nothing : html`about ${duration(trial.eta_seconds)} left`,
        html`trained for ${duration(trial.seconds)}`,
        trial.worker ? html`on <span class="mono">${trial.worker}</span>` : nothing,
        trial.attempt > 1 ? html`attempt ${trial.attempt}` : nothing,
        trial.starts_from ? html`started from <a href=${link("trial", trial.starts_from)}>another trial</a>` : nothing,
        trial.tunes ? nothing : "under fixed hyperparameters",
      ].filter((fact) => fact !== nothing);
      render(
        html`<div class="trial-head">
          <div class="toolbar">
            <h1>${study.name} · trial ${trial.number}</h1>
            ${state(trial)} ${tagList(trial.tags)}
            <div class="toolbar end">${actionButtons(app, trial, study.name, soon)} ${confirmButton(app, trial, soon)}</div>
          </div>
          <p class="facts">${facts.map((fact, i) => html`${i ? html`<span class="muted"> · </span>` : nothing}${fact}`)}</p>
          ${trial.error ? html`<p class="problem" role="alert"><span><strong>It failed.</strong> ${trial.error.detail ?? ""}</span></p>` : nothing}
          ${ended ? html`<p class="muted">Attempt ${ended.number} ended: ${ended.why}</p>` : nothing}
          ${trial.note ? html`<p class="note">${trial.note}</p>` : nothing}
          ${attributes(trial.user_attrs)}
          <details>
            <summary>Open in a notebook</summary>
            ${snippet(notebook(trial), "code for a notebook")}
          </details>
        </div>`,
        element,
      );
    },
  };
}

/** @param {Record<string, unknown>} attrs */
function attributes(attrs) {
  const names = Object.keys(attrs);
  if (!names.length) return nothing;
  return html`<p class="muted attributes">${names.map((name) => html`<span><span class="mono">${name}</span> ${inline(attrs[name])}</span>`)}</p>`;
}

/** @param {import("../app.js").App} app @param {import("../store.js").Trial} trial @param {() => void} soon */
function confirmButton(app, trial, soon) {
  // An unfinished trial has no best step yet, and one under fixed hyperparameters has nothing to confirm.
  if (!mayWrite(app) || trial.state !== "complete" || trial.best_step == null || !trial.tunes) return nothing;
  const confirm = async () => {
    await app.attempt(() => send("POST", `/trials/${trial.id}/confirm`, {}));
    soon();
  };
  return html`<button type="button" data-action="confirm" @click=${confirm}
    title="Train again from the first initialization under the best hyperparameters, in new trials of this study">Confirm</button>`;
}

/** @param {import("../store.js").Trial} trial */
function notebook(trial) {
  return `import nestor

trial = nestor.get_trial("${trial.id}", server="${serverAddress()}")
trial.steps_dataframe().plot(x="number", y=["train_loss", "val_loss"])
trial.best_hparams`;
}
