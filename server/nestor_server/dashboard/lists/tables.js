/** What tables of studies and trials share: sorting and filtering by links, so that Back and bookmarks work. */

import { count } from "../format.js";
import { pagesOf } from "./listing.js";
import { html, nothing } from "../vendor/lit-html/lit-html.js";

/**
 * @typedef {Record<string, string>} Query
 * @typedef {(changes: Record<string, string | null>) => string} To the address of this page with other fields in its query
 * @typedef {{by: string, order: "asc" | "desc"}} Sort
 * @typedef {{steps: number[], values: number[]}} Course which answers always have whole
 */

/**
 * A heading that sorts, and turns the order if it sorts already.
 * @param {string} text @param {string} by a sort of the API @param {Sort} sort the present one @param {To} to
 * @param {{first?: "asc" | "desc", end?: boolean, title?: string}} [options] `first`: the order that is more useful
 */
export function sortable(text, by, sort, to, { first = "desc", end = false, title = "" } = {}) {
  const isSorted = sort.by === by;
  const other = sort.order === "asc" ? "desc" : "asc";
  const href = to({ sort: by, order: isSorted ? other : first, pages: null });
  const arrow = isSorted ? (sort.order === "asc" ? "↑" : "↓") : "";
  return html`<th scope="col" class=${end ? "end" : ""} title=${title || nothing} aria-sort=${isSorted ? `${sort.order}ending` : nothing}
    ><a href=${href}>${text}<span class="arrow" aria-hidden="true">${arrow}</span></a></th>`;
}

/** @param {Query} query @param {string} by the sort without a choice */
export function sortOf(query, by) {
  return /** @type {Sort} */ ({ by: query.sort || by, order: query.order === "asc" ? "asc" : "desc" });
}

/**
 * Links that show only what is in one state, each with a number of trials.
 * @param {Record<string, number>} counts of trials by state @param {string} chosen @param {To} to @param {string} all
 * @param {{always?: readonly string[], notes?: Record<string, string>}} [options] `always`: states that are shown without trials, too
 */
export function stateFilter(counts, chosen, to, all, { always = [], notes = {} } = {}) {
  const states = STATES.filter((state) => counts[state] || always.includes(state) || state === chosen);
  return html`<nav class="filters" aria-label="Filter by state">
    <a href=${to({ state: null, pages: null })} aria-current=${chosen ? nothing : "true"}>${all}</a>
    ${states.map(
      (state) => html`<a href=${to({ state: state === chosen ? null : state, pages: null })} aria-current=${state === chosen ? "true" : nothing}
        class=${counts[state] ? "" : "none"}><span class="state" data-state=${state}>${count(counts[state] ?? 0)} ${state}</span>${
          notes[state] ? html`<span class="muted"> (${notes[state]})</span>` : nothing}</a>`,
    )}
  </nav>`;
}
/** How many trials a study has. @param {Record<string, number>} counts by state */
export function trialsIn(counts) {
  return Object.values(counts).reduce((a, b) => a + b, 0);
}

const STATES = ["running", "queued", "paused", "failed", "complete", "pruned", "cancelled"];

/** What else the list is filtered by, each with a link that ends it. @param {Query} query @param {To} to */
export function otherFilters(query, to) {
  const found = [
    query.q && { text: `containing “${query.q}”`, href: to({ q: null, pages: null }) },
    query.tag && { text: `tagged ${query.tag}`, href: to({ tag: null, pages: null }) },
  ].filter((one) => one !== undefined && one !== "");
  if (!found.length) return nothing;
  return html`<span class="filters">${found.map(({ text, href }) => html`<a href=${href} aria-current="true" title="Show others, too">${text} <span aria-hidden="true">✕</span><span class="sr-only">, end this filter</span></a>`)}</span>`;
}

/** Tags that filter. @param {readonly string[]} tags @param {To} to */
export function tagLinks(tags, to) {
  if (!tags.length) return nothing;
  return html`<span class="tags">${tags.map((tag) => html`<a class="tag" href=${to({ tag, pages: null })} title="Only those with this tag">${tag}</a>`)}</span>`;
}

/** "Show more", if there is more. @param {boolean} more @param {Query} query @param {(changes: Record<string, string>) => void} replace @param {number} shown */
export function showMore(more, query, replace, shown) {
  if (!more) return nothing;
  return html`<p class="more"><button type="button" @click=${() => replace({ pages: String(pagesOf(query) + 1) })}>Show more</button>
    <span class="muted">${count(shown)} are shown.</span></p>`;
}
