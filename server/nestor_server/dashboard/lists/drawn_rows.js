/** Which rows of a long table have changed since it was drawn before: the others cost nothing. */

import { noChange } from "../vendor/lit-html/lit-html.js";

export class DrawnRows {
  /** @type {Map<string, readonly unknown[]>} */
  #before = new Map();
  /** @type {Map<string, readonly unknown[]>} */
  #now = new Map();

  /** Call this before each drawing of the page, also if the table is not in it: rows that are gone are drawn anew. */
  begin() {
    this.#before = this.#now;
    this.#now = new Map();
  }

  /**
   * The row, or that it stays as it is.
   * @param {string} id @param {readonly unknown[]} from all that it shows, compared by identity @param {() => unknown} template
   */
  row(id, from, template) {
    const before = this.#before.get(id);
    this.#now.set(id, from);
    return before?.every((value, i) => value === from[i]) ? noChange : template();
  }
}
