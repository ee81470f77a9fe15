/** Note, tags and attributes of a study, edited in place. */

import { assignment, change, Changed } from "./changes.js";
import { inline } from "../format.js";
import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { live } from "../vendor/lit-html/directives/live.js";

/** @typedef {import("../store.js").Study} Study @typedef {import("./changes.js").Field} Field */

/** The editable parts of a study. Each keeps what the user has typed until it is saved or given up. */
export class Edits {
  #app;
  #changed;
  /** @type {Study | null} what the open field began with */
  #seen = null;
  /** @type {Field | null} */
  #open = null;
  #typed = "";

  /** @param {import("../app.js").App} app @param {() => void} changed draws again, and reads */
  constructor(app, changed) {
    this.#app = app;
    this.#changed = changed;
  }

  /** @param {Study} study @param {boolean} writes whether the user may change it */
  note(study, writes) {
    if (this.#open === "note") {
      return html`<form class="edit" @submit=${this.#submit("note", () => ({ note: this.#typed || null }))} @keydown=${this.#escape}>
        <textarea name="note" rows="6" maxlength="65536" aria-label="Note, a text in Markdown" .value=${live(this.#typed)} @input=${this.#type}></textarea>
        ${this.#buttons("Save the note")}
      </form>`;
    }
    if (!study.note) return writes ? this.#opener("note", study, "Add a note") : nothing;
    return html`<div><p class="note">${study.note}</p>${writes ? this.#opener("note", study, "Edit the note") : nothing}</div>`;
  }

  /** @param {Study} study @param {boolean} writes @param {import("./tables.js").To} to */
  tags(study, writes, to) {
    const without = (/** @type {string} */ tag) => this.#save(study, "tags", { tags: study.tags.filter((other) => other !== tag) });
    return html`<div class="tags">
      ${study.tags.map((tag) => html`<span class="tag"><a href=${to({ tag })} title="All studies with this tag">${tag}</a>${
        writes ? html` <button type="button" class="quiet" aria-label=${`Remove the tag ${tag}`} @click=${() => without(tag)}>✕</button>` : nothing}</span>`)}
      ${this.#open === "tags"
        ? html`<form class="edit inline" @submit=${this.#submit("tags", () => ({ tags: [...new Set([...study.tags, this.#typed.trim()])] }))} @keydown=${this.#escape}>
            <input name="tag" required maxlength="200" aria-label="New tag" .value=${live(this.#typed)} @input=${this.#type}>${this.#buttons("Add")}</form>`
        : writes ? this.#opener("tags", study, "Add a tag", "") : nothing}
    </div>`;
  }

  /** @param {Study} study @param {boolean} writes */
  attributes(study, writes) {
    const attrs = study.user_attrs;
    const names = Object.keys(attrs);
    const remove = (/** @type {string} */ name) => this.#save(study, "user_attrs", { user_attrs: { [name]: null } });
    return html`${names.length
        ? html`<dl class="facts attrs">${names.map((name) => html`<dt class="mono">${name}</dt><dd>${inline(attrs[name])}
            ${writes ? html`<button type="button" class="quiet" aria-label=${`Change ${name}`} @click=${() => this.#edit("user_attrs", study, `${name} = ${JSON.stringify(attrs[name])}`)}>✎</button
              ><button type="button" class="quiet" aria-label=${`Remove ${name}`} @click=${() => remove(name)}>✕</button>` : nothing}</dd>`)}</dl>`
        : nothing}
      ${this.#open === "user_attrs"
        ? html`<form class="edit inline" @submit=${this.#submit("user_attrs", () => ({ set_user_attrs: assignment(this.#typed) }))} @keydown=${this.#escape}>
            <input name="attribute" required pattern="[^=]*\\S[^=]*=.*" title="name = value, where the value is JSON or a text" placeholder="name = value" aria-label="Attribute, as name = value"
              .value=${live(this.#typed)} @input=${this.#type}>${this.#buttons("Set")}</form>`
        : writes ? this.#opener("user_attrs", study, "Add an attribute", "") : nothing}`;
  }

  /** Whether there is more to show than two links. @param {Study} study */
  isLarge(study) {
    return study.note !== "" || Object.keys(study.user_attrs).length > 0 || this.#open === "note" || this.#open === "user_attrs";
  }

  /** @param {Field} field @param {Study} study @param {string} text @param {string} [typed] */
  #opener(field, study, text, typed = study.note) {
    return html`<button type="button" class="link opener" @click=${() => this.#edit(field, study, typed)}>${text}</button>`;
  }

  /** @param {string} save */
  #buttons(save) {
    return html`<span class="buttons"><button class="primary">${save}</button><button type="button" @click=${() => this.#close()}>Back</button></span>`;
  }

  /** @param {Field} field @param {Study} study @param {string} typed */
  #edit(field, study, typed) {
    [this.#open, this.#seen, this.#typed] = [field, study, typed];
    this.#changed();
    /** @type {HTMLElement | null} */ (document.querySelector(".edit :is(textarea, input)"))?.focus();
  }

  #close() {
    this.#open = null;
    this.#changed();
  }

  #type = (/** @type {Event} */ event) => {
    this.#typed = /** @type {HTMLInputElement} */ (event.target).value;
  };

  #escape = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Escape") this.#close();
  };

  /** @param {Field} field @param {() => object} patch */
  #submit(field, patch) {
    return async (/** @type {Event} */ event) => {
      event.preventDefault();
      if (this.#seen && (await this.#save(this.#seen, field, patch()))) this.#close();
    };
  }

  /** @param {Study} seen @param {Field} field @param {object} patch @returns {Promise<boolean>} whether it was saved */
  async #save(seen, field, patch) {
    const saved = await this.#app.attempt(() => change(seen, field, patch).catch((error) => {
      if (!(error instanceof Changed)) throw error;
      this.#seen = error.study; // saving what is typed once more is meant for this state
      this.#app.say(error.message);
      return null;
    }));
    this.#changed();
    return saved !== null && saved !== undefined;
  }
}
