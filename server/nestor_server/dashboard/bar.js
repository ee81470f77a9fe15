/** The bar on top: where one is, whether it is alive, search, and who one is. */

import { clock, duration } from "./format.js";
import { link } from "./route.js";
import { html, nothing } from "./vendor/lit-html/lit-html.js";

/** @param {import("./app.js").App} app */
export function bar(app) {
  if (!app.me.user) return html`<header class="bar"><span class="brand">Nestor</span></header>`;
  return html`<header class="bar">
      <nav aria-label="Breadcrumbs">
        <a class="brand" href=${link("studies")}>Nestor</a>
        ${app.crumbs.map(
          ({ text, href }) =>
            html`<span class="divider" aria-hidden="true">›</span>${href ? html`<a href=${href}>${text}</a>` : html`<span aria-current="page">${text}</span>`}`,
        )}
      </nav>
      <form class="search" role="search" @submit=${search}>
        <input name="q" type="search" placeholder="Search studies" aria-label="Search studies" aria-keyshortcuts="/">
      </form>
      ${status(app)}
      <nav aria-label="Sections">
        <a href=${link("workers")}>Workers</a>
        <a href="docs/">API</a>
      </nav>
      <a class="user" href=${link("tokens")} title="Your tokens. This one permits: ${app.me.scope}">${app.me.user}${app.me.scope === "write" ? nothing : html` <span class="tag">${app.me.scope}</span>`}</a>
      <button type="button" class="quiet" @click=${() => app.leave()}>Log out</button>
    </header>
    ${app.problem
      ? html`<div class="problem" role="alert"><p>${app.problem}</p><button type="button" class="quiet" @click=${() => app.say("")}>Close</button></div>`
      : nothing}`;
}

/** @param {SubmitEvent} event */
function search(event) {
  event.preventDefault();
  const field = /** @type {HTMLInputElement} */ (/** @type {HTMLFormElement} */ (event.currentTarget).elements.namedItem("q"));
  location.hash = link("studies", "", { q: field.value.trim() });
  field.value = "";
  field.blur();
}

/** @param {import("./app.js").App} app */
function status(app) {
  const status = app.polls.status;
  if (status.kind === "stale") {
    return html`<span class="status" data-kind="stale" role="alert"><span title=${status.why}>stale since ${clock(status.since)}</span>
      · <button type="button" class="link" @click=${() => app.polls.soon()}>try now</button></span>`;
  }
  if (status.kind === "idle") return nothing;
  if (status.kind === "loading") return html`<span class="status" data-kind="loading">loading</span>`;
  const age = Math.round((Date.now() - status.at) / 1000);
  return html`<span class="status" data-kind="live">live · ${duration(age)}</span>`;
}

document.addEventListener("keydown", (event) => {
  const target = /** @type {HTMLElement} */ (event.target);
  if (event.key !== "/" || event.ctrlKey || event.metaKey || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)) return;
  event.preventDefault();
  /** @type {HTMLElement | null} */ (document.querySelector(".search input"))?.focus();
});
