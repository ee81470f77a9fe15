/** The life of a panel of a trial: made when it comes into view, kept up to date while it is there, destroyed with its page. */

import { RequestRejected } from "../api.js";
import { skeleton } from "../ui.js";
import { html, render } from "../vendor/lit-html/lit-html.js";

/**
 * @typedef {import("../store.js").Snapshot} Snapshot
 * @typedef {import("../route.js").Route} Route
 * @typedef {(element: HTMLElement, app: import("../app.js").App, soon: () => void) => Panel<any>} MakePanel `soon` reads
 * the trial now
 */

/**
 * A panel draws into its element. `read` gets what it needs beyond the snapshot; `show` displays both.
 * @template T
 * @typedef {object} Panel
 * @property {(snapshot: Snapshot, route: Route) => Promise<T>} [read]
 * @property {(snapshot: Snapshot, data: T, route: Route) => void} show
 * @property {() => void} [destroy]
 */

const AHEAD = "400px"; // around the window, where panels are up to date already

export class Panels {
  /** @type {{element: HTMLElement, make: MakePanel, panel: Panel<any> | null, isInView: boolean}[]} */
  #slots = [];
  #observer;
  #destroyed = false;

  /** @param {import("../app.js").App} app @param {() => void} soon reads the trial now */
  constructor(app, soon) {
    this.#observer = new IntersectionObserver(
      (entries) => {
        for (const { target, isIntersecting } of entries) {
          const slot = this.#slots.find(({ element }) => element === target);
          if (!slot) continue;
          slot.isInView = isIntersecting;
          if (!isIntersecting) continue;
          slot.panel ??= slot.make(slot.element, app, soon);
          soon();
        }
      },
      { rootMargin: AHEAD },
    );
  }

  /** A place for a panel, which is made when it comes into view. @param {string} name @param {MakePanel} make */
  place(name, make) {
    const element = document.createElement("div");
    element.className = `slot slot-${name}`;
    render(skeleton(), element);
    this.#slots.push({ element, make, panel: null, isInView: false });
    this.#observer.observe(element);
    return element;
  }

  /** Read and show the panels in view. One whose read is refused says why; the others go on. @param {Snapshot} snapshot @param {Route} route */
  async update(snapshot, route) {
    await Promise.all(
      this.#slots.map(async ({ element, panel, isInView }) => {
        const isEmpty = element.offsetHeight === 0; // it may have something to show for another hyperparameter
        if (!panel || !(isInView || isEmpty)) return;
        let data;
        try {
          data = await panel.read?.(snapshot, route);
        } catch (error) {
          if (!(error instanceof RequestRejected) || error.status === 401 || error.status === 429) throw error;
          if (!this.#destroyed) render(html`<div class="panel"><p class="muted">${error.message}</p></div>`, element);
          return;
        }
        if (!this.#destroyed) panel.show(snapshot, data, route);
      }),
    );
  }

  destroy() {
    this.#destroyed = true;
    this.#observer.disconnect();
    for (const { panel } of this.#slots) panel?.destroy?.();
    this.#slots = [];
  }
}
