/** A list that is read page by page. All pages that were opened stay open, and polling them costs little. */

import { get } from "../api.js";

const AGE = 10_000; // milliseconds after which pages other than the first are read again

/**
 * @template {{id: string}} T
 * @typedef {{items: T[], more: boolean}} Listed `more`: there are further pages
 */

/** @template {{id: string}} T */
export class Listing {
  #path;
  #query;
  #read;
  /** @type {{cursor: string, at: number, body: {items: T[], next_cursor: string | null}}[]} */
  #pages = [];

  /** @param {string} path @param {Record<string, string | number | boolean | undefined>} query of all pages @param {typeof get} [read] */
  constructor(path, query, read = get) {
    this.#path = path;
    this.#query = query;
    this.#read = read;
  }

  /** Let the next read be of all pages, because something in them was changed. */
  expire() {
    for (const page of this.#pages) page.at = 0;
  }

  /**
   * What is on the first `n` pages. An entry that has moved while they were read is there once.
   * @param {number} n @param {number} [now] @returns {Promise<Listed<T>>}
   */
  async read(n, now = Date.now()) {
    /** @type {Map<string, T>} */
    const items = new Map();
    let cursor = "";
    for (let i = 0; i < n; i++) {
      const known = this.#pages[i];
      // The first page has what is new, and where the next one begins. Later ones seldom change.
      const isFresh = i > 0 && known?.cursor === cursor && now - known.at < AGE;
      const page = isFresh ? known : { cursor, at: now, body: await this.#read(this.#path, { ...this.#query, cursor }) };
      this.#pages[i] = page;
      for (const item of page.body.items) items.set(item.id, item);
      cursor = page.body.next_cursor ?? "";
      if (!cursor) break;
    }
    return { items: [...items.values()], more: cursor !== "" };
  }
}

/** How many pages of a list the address asks for. @param {Record<string, string>} query */
export function pagesOf(query) {
  return Math.max(1, Math.floor(Number(query.pages)) || 1);
}
