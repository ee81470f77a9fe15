/** What stands where a page would be: an address that leads nowhere, or a server that does not answer. */

import { html, nothing, render } from "../vendor/lit-html/lit-html.js";

/** @param {string} title @param {string} text @param {string} [href] where to go from here @returns {import("../app.js").Page} */
export function missingPage(title, text, href) {
  const element = document.createElement("main");
  document.title = `${title} · Nestor`;
  render(missing(title, text, href), element);
  return { element, destroy: () => {} };
}

/** @param {string} title @param {string} text @param {string} [href] */
export function missing(title, text, href) {
  return html`<div class="empty"><h1>${title}</h1>${text ? html`<p>${text}</p>` : nothing}${href ? html`<p><a href=${href}>All studies</a></p>` : nothing}</div>`;
}
