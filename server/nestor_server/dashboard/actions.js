/** What a user can ask of a trial. An action keeps the trial that it was rendered with, whatever the page shows by then. */

import { send } from "./api.js";
import { confirmed } from "./ui.js";
import { html, nothing } from "./vendor/lit-html/lit-html.js";

/**
 * @typedef {import("./store.js").Trial} Trial
 * @typedef {import("./app.js").App} App
 * @typedef {{label: string, title: string, ask?: string}} Action `ask`: what is lost, which must be confirmed
 */

/** @type {Record<string, Action>} */
const ACTIONS = {
  pause: { label: "Pause", title: "Write a checkpoint and free the device" },
  resume: { label: "Resume", title: "Queue the trial again, from its checkpoint" },
  stop: { label: "Stop", title: "End now and keep the result" },
  retry: { label: "Retry", title: "Queue the trial again, from its newest checkpoint" },
  extend: { label: "Extend", title: "Queue the trial again for more steps" },
  prune: { label: "Prune", title: "Give the trial up and keep its records", ask: "It is marked as given up. Its records are kept." },
  cancel: { label: "Cancel", title: "End the trial as canceled", ask: "Its records are kept, but it cannot be resumed." },
};

/** Whether the user's token permits changes. @param {App} app */
export function mayWrite(app) {
  return app.me.scope !== "read";
}

/**
 * Buttons for what is allowed now, and only those.
 * @param {App} app @param {Trial} trial @param {string} study name of its study @param {() => void} done
 */
export function actionButtons(app, trial, study, done) {
  const allowed = mayWrite(app) ? Object.keys(ACTIONS).filter((name) => trial.allowed_actions.includes(name)) : [];
  if (!allowed.length) return nothing;
  const named = `trial ${trial.number} of ${study}`;
  return html`<div class="actions" role="group" aria-label="Actions on ${named}">
    ${allowed.map((name) =>
      name === "extend" ? extendForm(app, trial, done) : html`<button type="button" data-action=${name} title=${ACTIONS[name].title}
          class=${ACTIONS[name].ask ? "danger" : ""} @click=${() => request(app, trial, named, name, done)}>${ACTIONS[name].label}</button>`,
    )}
  </div>`;
}

/** @param {App} app @param {Trial} trial @param {() => void} done */
function extendForm(app, trial, done) {
  /** @param {SubmitEvent} event */
  const extend = async (event) => {
    event.preventDefault();
    const field = /** @type {HTMLFormElement} */ (event.currentTarget).elements.namedItem("steps");
    const steps = /** @type {HTMLInputElement} */ (field).valueAsNumber;
    const key = { "Idempotency-Key": `extend-${trial.id}-${trial.n_steps}-${steps}` };
    await app.attempt(() => send("POST", `/trials/${trial.id}/extend`, { steps }, key));
    done();
  };
  return html`<form class="extend" @submit=${extend}>
    <button data-action="extend" title=${ACTIONS.extend.title}>${ACTIONS.extend.label}</button>
    <label>by <input name="steps" type="number" min="1" step="1" required value="100"> steps</label>
  </form>`;
}

/** @param {App} app @param {Trial} trial @param {string} named @param {string} name @param {() => void} done */
async function request(app, trial, named, name, done) {
  const { label, ask } = ACTIONS[name];
  if (ask && !(await confirmed(`${label} ${named}?`, ask, `${label} trial ${trial.number}`))) return;
  await app.attempt(() => send("POST", `/trials/${trial.id}/${name}`));
  done();
}
