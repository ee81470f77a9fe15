/** The tokens of a user: which there are, when they were used last, and how to end them. */

import { get, send } from "../api.js";
import { LONG } from "../poll.js";
import { confirmed, skeleton } from "../ui.js";
import { html, nothing, render } from "../vendor/lit-html/lit-html.js";
import { repeat } from "../vendor/lit-html/directives/repeat.js";

/** @typedef {import("../store.js").Schemas["Token"]} Token @typedef {import("../store.js").Schemas["TokenCreated"]} TokenCreated */

const SCOPES = ["read", "write", "admin"];

/** @param {import("../app.js").App} app @returns {import("../app.js").Page} */
export function tokensPage(app) {
  const element = document.createElement("main");
  let secret = ""; // of the token that was made last, which no other response contains
  render(skeleton(), element);
  app.heading([{ text: "Tokens" }], "Tokens");

  const watch = app.polls.watch({
    read: () => get("/tokens"),
    show: (/** @type {{items: Token[]}} */ { items }) => {
      draw(items);
      return LONG;
    },
  });

  /** @param {Token} token */
  const revoke = async (token) => {
    const own = token.id === app.me.token_id;
    const text = own ? "This session ends with it. So do its other sessions and event streams." : "Requests with it are refused from now on. Its sessions in browsers and its event streams end.";
    if (!(await confirmed(`Revoke ${token.name}?`, text, "Revoke it"))) return;
    await app.attempt(() => send("DELETE", `/tokens/${token.id}`));
    watch.soon();
  };

  /** @param {SubmitEvent} event */
  const create = async (event) => {
    event.preventDefault();
    const form = /** @type {HTMLFormElement} */ (event.currentTarget), fields = new FormData(form);
    const days = fields.get("days");
    const asked = { name: fields.get("name"), scope: fields.get("scope"), expires_in_days: days ? Number(days) : null };
    const made = /** @type {TokenCreated | undefined} */ (await app.attempt(() => send("POST", "/tokens", asked)));
    if (!made) return;
    secret = made.token;
    form.reset();
    watch.soon();
  };

  /** @param {Token[]} items */
  const draw = (items) =>
    render(
      html`<header class="toolbar page-head"><h1>Tokens</h1><p class="facts">of ${app.me.user}</p></header>
        ${app.me.scope === "admin" ? creation(create, secret) : nothing}
        <section class="panel flush" aria-label="List of tokens">
          <div class="scroll" tabindex="0"><table class="list">
            <thead><tr>
              <th scope="col">Name</th><th scope="col">Scope</th><th scope="col">Created</th><th scope="col">Expires</th>
              <th scope="col" title="In UTC, to the minute">Last used</th><th scope="col"><span class="sr-only">Actions</span></th>
            </tr></thead>
            <tbody>${repeat(items, ({ id }) => id, (token) => row(app, token, revoke))}</tbody>
          </table></div>
        </section>`,
      element,
    );
  return { element, destroy: () => watch.stop() };
}

/** @param {import("../app.js").App} app @param {Token} token @param {(token: Token) => void} revoke */
function row(app, token, revoke) {
  const isOwn = token.id === app.me.token_id;
  return html`<tr>
    <th scope="row">${token.name}${isOwn ? html` <span class="tag">this session</span>` : nothing}</th>
    <td>${token.scope}</td>
    <td>${day(token.created_at)}</td>
    <td>${token.expires_at ? day(token.expires_at) : html`<span class="muted">never</span>`}</td>
    <td>${token.last_used_at ? token.last_used_at.slice(0, 16).replace("T", " ") : html`<span class="muted">–</span>`}</td>
    <td class="end">${token.revocable ? html`<button type="button" class="danger" @click=${() => revoke(token)}>Revoke<span class="sr-only"> ${token.name}</span></button>` : nothing}</td>
  </tr>`;
}

/** @param {(event: SubmitEvent) => void} create @param {string} secret */
function creation(create, secret) {
  return html`<section class="panel" aria-label="New token">
    <form class="toolbar" @submit=${create}>
      <label>Name <input name="name" required maxlength="200" placeholder="laptop"></label>
      <label>Scope <select name="scope">${SCOPES.map((scope) => html`<option ?selected=${scope === "write"}>${scope}</option>`)}</select></label>
      <label>Days <input name="days" type="number" min="1" max="3650" value="365" title="Empty: it never expires"></label>
      <button class="primary">Create a token</button>
    </form>
    ${secret ? html`<p role="status">Copy it now, as it cannot be shown again: <code>${secret}</code></p>` : nothing}
  </section>`;
}

/** @param {string} moment */
function day(moment) {
  return moment.slice(0, 10);
}
