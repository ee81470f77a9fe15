/** The application: who is logged in, the bar on top, and the page that the address names. */

import { forget, get, RequestRejected, send, Unavailable } from "./api.js";
import { Cursor } from "./cursor.js";
import { bar } from "./bar.js";
import { comparePage } from "./pages/compare.js";
import { ENDED, loginPage, UNKNOWN } from "./pages/login.js";
import { missingPage } from "./pages/missing.js";
import { studiesPage } from "./pages/studies.js";
import { studyPage } from "./pages/study.js";
import { tokensPage } from "./pages/tokens.js";
import { trialPage } from "./pages/trial.js";
import { workersPage } from "./pages/workers.js";
import { Scheduler } from "./poll.js";
import { isSamePage, parse } from "./route.js";
import { Store } from "./store.js";
import { render } from "./vendor/lit-html/lit-html.js";

/**
 * A page owns its element and its reading. It empties when the address changes, because the next page is another object.
 * @typedef {{element: HTMLElement, changed?: (route: Route) => void, destroy: () => void}} Page `changed`: only the query did
 * @typedef {(app: App, route: Route) => Page} MakePage
 * @typedef {import("./route.js").Route} Route
 * @typedef {{text: string, href?: string}} Crumb
 * @typedef {import("./store.js").Schemas["Me"]} Me
 */

/** @type {Record<import("./route.js").PageName, MakePage>} */
const PAGES = { studies: studiesPage, study: studyPage, trial: trialPage, compare: comparePage, workers: workersPage, tokens: tokensPage };

/** @type {Me} */
const NOBODY = { user: "", scope: "read" };

export class App {
  me = NOBODY;
  store = new Store();
  cursor = new Cursor();
  polls = new Scheduler({ changed: () => this.#drawBar(), failed: (error) => this.#hasFailed(error) });
  crumbs = /** @type {Crumb[]} */ ([]);
  problem = ""; // why the last action failed
  #page = /** @type {Page | null} */ (null);
  #route = /** @type {Route | null} */ (null);
  #bar = document.createElement("div");
  #content = document.createElement("div");

  constructor() {
    document.body.append(this.#bar, this.#content);
    window.addEventListener("hashchange", () => (location.hash.startsWith("#token=") ? this.start() : this.#arrive()));
    document.addEventListener("visibilitychange", () => document.hidden || this.polls.soon());
    setInterval(() => document.hidden || this.#drawBar(), 1_000); // ages
  }

  /** Log in by the address, by the cookie, or by the form. @param {string | null} [given] the token of the address, if it is gone from there */
  async start(given) {
    const token = given ?? new URLSearchParams(location.hash.slice(1)).get("token") ?? new URLSearchParams(location.search).get("token");
    if (token && !given) history.replaceState(null, "", location.pathname); // first of all: off the address bar and the history
    try {
      this.enter(token ? await send("POST", "/session", { token }) : await get("/me"));
    } catch (error) {
      if (error instanceof RequestRejected && error.status === 401) return this.#logIn(token ? UNKNOWN : "");
      if (!(error instanceof RequestRejected || error instanceof Unavailable)) throw error;
      this.#show(missingPage("The server does not answer", "Trying again every few seconds."));
      setTimeout(() => this.start(token), 3_000);
    }
  }

  /** Show the page of the address to a user, with nothing that another one has read. @param {Me} me */
  enter(me) {
    this.#forget();
    this.me = me;
    this.#arrive();
  }

  async leave() {
    await this.attempt(() => send("DELETE", "/session"));
    this.#logIn("");
  }

  /** Say what is shown, in the bar and in the title of the tab. @param {Crumb[]} crumbs @param {string} title */
  heading(crumbs, title) {
    this.crumbs = crumbs;
    document.title = title ? `${title} · Nestor` : "Nestor";
    this.#drawBar();
  }

  /** Make the page anew. */
  reopen() {
    this.#route = null;
    this.#arrive();
  }

  /** Change the query of the address without a new entry in the history. @param {string} href */
  replace(href) {
    history.replaceState(null, "", href);
    this.#arrive();
  }

  /** Send a request, and say why if it fails. @template T @param {() => Promise<T>} request @returns {Promise<T | undefined>} */
  async attempt(request) {
    this.say("");
    try {
      return await request();
    } catch (error) {
      if (!(error instanceof RequestRejected || error instanceof Unavailable)) throw error;
      if (error instanceof RequestRejected && error.status === 401) this.#logIn(ENDED);
      else this.say(error.message);
    }
  }

  /** Show a sentence above the page until it is closed or another page is opened. @param {string} problem */
  say(problem) {
    this.problem = problem;
    this.#drawBar();
  }

  #arrive() {
    if (!this.me.user) return; // the login form is shown
    const route = parse(location.hash);
    const page = this.#page;
    const stays = route && isSamePage(route, this.#route) && page?.changed;
    this.#route = route;
    if (stays) return page.changed?.(route);
    this.problem = "";
    this.cursor = new Cursor();
    // The page before is gone before the next one is made, so that none of its buttons stays.
    this.#show(null);
    this.#show(route ? PAGES[route.page](this, route) : missingPage("There is no such page", "", "#/"));
    window.scrollTo(0, 0);
  }

  /** @param {string} why */
  #logIn(why) {
    this.#forget();
    this.#show(loginPage(this, why));
  }

  #forget() {
    this.me = NOBODY;
    this.store = new Store();
    this.crumbs = [];
    this.#route = null;
    forget();
  }

  /** @param {Page | null} page */
  #show(page) {
    if (page !== this.#page) this.#page?.destroy();
    this.#page = page;
    this.#content.replaceChildren(...(page ? [page.element] : []));
    this.#drawBar();
  }

  #drawBar() {
    render(bar(this), this.#bar);
  }

  /** What a failed read means for everything; true: it ends the reading. @param {unknown} error */
  #hasFailed(error) {
    if (error instanceof RequestRejected && error.status === 401) {
      this.#logIn(ENDED);
      return true;
    }
    if (!(error instanceof RequestRejected || error instanceof Unavailable)) reportError(error); // a mistake in this code
    return false;
  }
}

new App().start();
