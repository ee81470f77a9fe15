/** Small pieces of pages. All text goes through lit-html, which never parses it as HTML. */

import { full, plural, short } from "./format.js";
import { html, nothing } from "./vendor/lit-html/lit-html.js";

/** @typedef {import("./store.js").Trial} Trial @typedef {import("./store.js").Schemas} Schemas */

/** A number with four significant digits, and all of them on hover. @param {number | null | undefined} value */
export function number(value) {
  return html`<span class="num" title=${full(value)}>${short(value)}</span>`;
}

/** What a running trial is about to do, by its desired state. */
const PENDING = { pause: "pausing", stop: "stopping", prune: "being pruned", cancel: "being canceled", preempt: "being preempted" };

/** @param {{state: string, desired?: string}} trial */
export function stateText({ state, desired }) {
  const pending = PENDING[/** @type {keyof typeof PENDING} */ (desired)];
  return state === "running" && pending ? `running, ${pending}` : state;
}

/** A dot and a word. @param {{state: string, desired?: string}} trial */
export function state(trial) {
  return html`<span class="state" data-state=${trial.state}>${stateText(trial)}</span>`;
}

/** The answers of verdicts as words. */
export const ANSWERS = { yes: "Yes", "with care": "With care", no: "No" };

/** Whether a result can be relied on, as a word in the color of the answer. @param {Schemas["Verdict"] | null | undefined} verdict */
export function verdict(verdict) {
  if (!verdict) return html`<span class="muted">–</span>`;
  return html`<span class="verdict" data-answer=${verdict.answer} title=${`${verdict.sentence} ${verdict.remedy}`}>${ANSWERS[verdict.answer]}</span>`;
}

/** @param {readonly string[]} tags */
export function tagList(tags) {
  return tags.length ? html`<span class="tags">${tags.map((tag) => html`<span class="tag">${tag}</span>`)}</span>` : nothing;
}

/** Buttons of which one is pressed. @param {string} label @param {Record<string, string>} choices text by value @param {string} chosen @param {(value: string) => void} choose */
export function segmented(label, choices, chosen, choose) {
  return html`<div class="segmented" role="group" aria-label=${label}>
    ${Object.entries(choices).map(
      ([value, text]) =>
        html`<button type="button" aria-pressed=${String(value === chosen)} @click=${() => choose(value)}>${text}</button>`,
    )}
  </div>`;
}

/** Text that a button copies. @param {string} text @param {string} label of the text, for screen readers */
export function snippet(text, label) {
  /** @param {Event} event */
  const copy = async (event) => {
    const button = /** @type {HTMLButtonElement} */ (event.currentTarget);
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1_500);
  };
  return html`<div class="snippet">
    <pre tabindex="0" aria-label=${label}><code>${text}</code></pre>
    ${navigator.clipboard ? html`<button type="button" aria-label=${`Copy ${label}`} @click=${copy}>Copy</button>` : nothing}
  </div>`;
}

/** A card with a heading. @param {string} title @param {unknown} content @param {{controls?: unknown, note?: unknown, kind?: string}} [options] */
export function panel(title, content, { controls = nothing, note = nothing, kind = "" } = {}) {
  return html`<section class="panel ${kind}" aria-label=${title}>
    <header><h2>${title}</h2><p class="muted">${note}</p>${controls}</header>
    ${content}
  </section>`;
}

/** What stands where data will be. */
export function skeleton() {
  return html`<div class="skeleton" role="status"><span class="sr-only">Loading</span></div>`;
}

/** What stands where there is nothing, and what to do about it. @param {string} title @param {unknown} [content] */
export function empty(title, content = nothing) {
  return html`<div class="empty"><p>${title}</p>${content}</div>`;
}

/** "step 12 of 300" with a bar. @param {{step: number, n_steps: number}} trial */
export function progress({ step, n_steps }) {
  return html`<span class="progress"><progress max=${n_steps} value=${step} aria-label=${`Step ${step} of ${n_steps}`}></progress
    ><span class="num">${plural(step, "step")} of ${short(n_steps)}</span></span>`;
}

/**
 * Ask before something that cannot be taken back. @param {string} title @param {string} text @param {string} action
 * @returns {Promise<boolean>}
 */
export function confirmed(title, text, action) {
  const dialog = document.createElement("dialog");
  const form = document.createElement("form");
  const heading = document.createElement("h2"), body = document.createElement("p"), buttons = document.createElement("div");
  const [no, yes] = [document.createElement("button"), document.createElement("button")];
  heading.textContent = title;
  heading.id = "confirmation";
  body.textContent = text;
  buttons.className = "buttons";
  [no.textContent, no.value, no.type] = ["Back", "", "submit"];
  [yes.textContent, yes.value, yes.type, yes.className] = [action, "yes", "submit", "danger"];
  form.method = "dialog";
  dialog.setAttribute("aria-labelledby", heading.id);
  buttons.append(no, yes);
  form.append(heading, body, buttons);
  dialog.append(form);
  document.body.append(dialog);
  dialog.showModal();
  no.focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
  });
}
