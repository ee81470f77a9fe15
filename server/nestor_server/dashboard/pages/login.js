/** One field and one sentence. */

import { RequestRejected, send } from "../api.js";
import { html, nothing, render } from "../vendor/lit-html/lit-html.js";

// The API's own sentence is about headers of requests.
export const UNKNOWN = "The server does not know this token. It may have expired, or been revoked.";
export const ENDED = "Your session has ended. Log in again.";

/** @param {import("../app.js").App} app @param {string} why the user has to log in again @returns {import("../app.js").Page} */
export function loginPage(app, why) {
  const element = document.createElement("main");
  element.className = "login";
  let problem = why;
  document.title = "Log in · Nestor";

  /** @param {SubmitEvent} event */
  const logIn = async (event) => {
    event.preventDefault();
    const field = /** @type {HTMLInputElement} */ (element.querySelector("input"));
    try {
      app.enter(await send("POST", "/session", { token: field.value.trim() }));
    } catch (error) {
      const refused = error instanceof RequestRejected && error.status === 401;
      problem = refused ? UNKNOWN : error instanceof Error ? error.message : String(error);
      draw();
      field.focus();
    }
  };
  const draw = () => {
    render(
      html`<h1>Log in to Nestor</h1>
        <form @submit=${logIn}>
          <label>Token <input type="password" autocomplete="off" spellcheck="false" required autofocus placeholder="nst_…"></label>
          <button class="primary">Log in</button>
        </form>
        ${problem ? html`<p class="problem" role="alert">${problem}</p>` : nothing}
        <p class="muted">On the server's machine, <code>nestor token create</code> prints a token.</p>`,
      element,
    );
  };
  draw();
  queueMicrotask(() => element.querySelector("input")?.focus());
  return { element, destroy: () => {} };
}
