/** All studies: what runs, and what needs me? */

import { mayWrite } from "../actions.js";
import { get } from "../api.js";
import { spark } from "../charts/spark.js";
import { DrawnRows } from "../lists/drawn_rows.js";
import { firstStudy } from "../lists/first_steps.js";
import { ago, clock, count, duration, percent, plural } from "../format.js";
import { Listing, pagesOf } from "../lists/listing.js";
import { LONG, SHORT } from "../poll.js";
import { link } from "../route.js";
import { archive, restore, stopRunning } from "../lists/study_actions.js";
import { otherFilters, showMore, sortable, sortOf, stateFilter, tagLinks, trialsIn } from "../lists/tables.js";
import { empty, number, skeleton, state, verdict } from "../ui.js";
import { html, nothing, render } from "../vendor/lit-html/lit-html.js";
import { repeat } from "../vendor/lit-html/directives/repeat.js";
import { walkRows } from "../lists/walk_rows.js";

/** @typedef {import("../store.js").Schemas} Schemas @typedef {Schemas["StudySummary"]} Study */
/** @typedef {{list: import("../lists/listing.js").Listed<Study>, activity: Schemas["Activity"], query: Record<string, string>}} Shown */

const LIMIT = 50; // studies of a page of the list

/** @param {import("../app.js").App} app @param {import("../route.js").Route} route @returns {import("../app.js").Page} */
export function studiesPage(app, route) {
  const element = document.createElement("main");
  render(skeleton(), element);
  app.heading([], "Studies");
  const selected = /** @type {Map<string, Study>} */ (new Map());
  const rows = new DrawnRows();
  let listing = listingOf(route.query);
  let shown = /** @type {Shown | null} */ (null);

  const watch = app.polls.watch({
    read: async () => {
      const { query } = route;
      const [list, activity] = await Promise.all([listing.read(pagesOf(query)), get("/activity")]);
      return { list, activity, query };
    },
    show: (read) => {
      if (read.query !== route.query) return SHORT; // another list was asked for meanwhile
      shown = read;
      draw();
      const moves = read.activity.trial_counts.running || read.activity.trial_counts.queued;
      return moves ? SHORT : LONG;
    },
  });

  /** @type {import("../lists/tables.js").To} */
  const to = (changes) => link("studies", "", { ...route.query, ...changes });

  /** @param {Study} study @param {boolean} isSelected */
  const select = (study, isSelected) => {
    if (isSelected) selected.set(study.id, study);
    else selected.delete(study.id);
    draw();
  };
  /** Do something to the studies that are selected now. @param {(studies: Study[]) => Promise<unknown>} action */
  const act = async (action) => {
    const before = [...selected.values()];
    const done = await action(before);
    if (done !== false) for (const { id } of before) selected.delete(id);
    listing.expire();
    watch.soon();
    draw();
  };

  const draw = () => {
    if (!shown) return;
    rows.begin();
    const { query } = shown;
    const { items, more } = shown.list;
    const writes = mayWrite(app);
    const replace = (/** @type {Record<string, string>} */ changes) => app.replace(to(changes));
    if (query.deleted) return render(deletedStudies(items, showMore(more, query, replace, items.length), writes, restored), element);
    const isFiltered = query.q || query.tag || query.state;
    render(
      html`<header class="toolbar page-head"><h1>Studies</h1>
          ${shown.activity.studies ? stateFilter(shown.activity.trial_counts, query.state ?? "", to, plural(shown.activity.studies, "study", "studies"), {
            always: ["running", "queued", "failed"],
            notes: shown.activity.failed_recently ? { failed: `${count(shown.activity.failed_recently)} in 24 h` } : {},
          }) : nothing}
          ${otherFilters(query, to)}
          <a class="end" href=${link("studies", "", { deleted: "1" })}>Archived studies</a>
        </header>
        ${items.length
          ? html`<section class="panel flush" aria-label="List of studies">
              ${selected.size ? selection() : nothing}
              <div class="scroll" tabindex="0">${table(items, { query, to, writes, rows, selected, select })}</div>
              ${showMore(more, query, replace, items.length)}
            </section>
            <p class="muted keys">Keys: <kbd>j</kbd> <kbd>k</kbd> move, <kbd>Enter</kbd> opens${writes ? html`, <kbd>x</kbd> selects` : nothing}, <kbd>/</kbd> searches.</p>`
          : isFiltered
            ? html`<section class="panel">${empty("No study fits.", html`<p><a href=${link("studies")}>Show all studies</a></p>`)}</section>`
            : html`<section class="panel">${empty("No studies yet. Create the first one.", firstStudy())}</section>`}`,
      element,
    );
  };
  const selection = () => html`<div class="toolbar selection" role="group" aria-label="The selected studies">
    <strong>${plural(selected.size, "study", "studies")} selected</strong>
    <button type="button" @click=${() => act((studies) => stopRunning(app, studies))}>Stop running trials</button>
    <button type="button" class="danger" @click=${() => act((studies) => archive(app, studies))}>Archive</button>
    <button type="button" class="quiet" @click=${() => { selected.clear(); draw(); }}>Select none</button>
  </div>`;
  /** @param {Study} study @param {string} name */
  const restored = async (study, name) => {
    await restore(app, study, name);
    listing.expire();
    watch.soon();
  };

  const stopWalking = walkRows(element);
  return {
    element,
    changed: (changed) => {
      const isSameList = listKey(changed.query) === listKey(route.query);
      route = changed;
      if (!isSameList) listing = listingOf(route.query);
      watch.soon();
    },
    destroy: () => {
      stopWalking();
      watch.stop();
    },
  };
}

/** @param {Record<string, string>} query */
function filters({ q, tag, state, deleted, sort, order }) {
  return { q, tag, state, deleted: deleted && "true", sort, order };
}

/** @param {Record<string, string>} query */
function listKey(query) {
  return JSON.stringify(filters(query));
}

/** @param {Record<string, string>} query @returns {Listing<Study>} */
function listingOf(query) {
  return new Listing("/studies", { ...filters(query), limit: LIMIT });
}

/**
 * @typedef {{query: Record<string, string>, to: import("../lists/tables.js").To, writes: boolean, selected: ReadonlyMap<string, Study>,
 *   select: (study: Study, isSelected: boolean) => void, rows: DrawnRows}} How
 */

/** @param {readonly Study[]} studies @param {How} how */
function table(studies, how) {
  const { to } = how;
  const sort = sortOf(how.query, "created_at");
  const now = Date.now();
  return html`<table class="list studies">
    <thead><tr>
      ${sortable("Study", "name", sort, to, { first: "asc" })}
      <th scope="col">State</th>
      ${sortable("Trials", "trials", sort, to, { end: true })}
      <th scope="col">Best trial</th>
      ${sortable("Best", "best_value", sort, to, { end: true, first: "asc" })}
      <th scope="col">Metric</th>
      <th scope="col" title="Whether the result of the best trial can be relied on">Reliable</th>
      <th scope="col">Worker</th>
      ${sortable("Active", "last_activity_at", sort, to, { end: true, title: "When a trial last recorded something or changed its state, or the study was changed" })}
    </tr></thead>
    <tbody>${repeat(studies, ({ id }) => id, (study) => {
      const age = ago(study.last_activity_at, now), isSelected = how.selected.has(study.id);
      return how.rows.row(study.id, [study, how.query, age, isSelected], () => row(study, age, isSelected, how));
    })}</tbody>
  </table>`;
}

/** @param {Study} study @param {string} age @param {boolean} isSelected @param {How} how */
function row(study, age, isSelected, { to, writes, select }) {
  const { trial_counts: counts, running } = study;
  const all = trialsIn(counts);
  return html`<tr aria-selected=${writes ? String(isSelected) : nothing}>
    <th scope="row" class="name">
      ${writes ? html`<input type="checkbox" aria-label=${`Select ${study.name}`} .checked=${isSelected}
        @change=${(/** @type {Event} */ event) => select(study, /** @type {HTMLInputElement} */ (event.target).checked)}>` : nothing}
      <span><a class="open" href=${link("study", study.id)} title=${study.name}>${study.name}</a> ${tagLinks(study.tags, to)}</span>
    </th>
    <td>${running ? progressOf(running) : all ? state({ state: stateOf(counts) }) : html`<span class="muted">no trials</span>`}</td>
    <td class="end">${count(all)}${counts.failed ? html`<span class="failed"> · ${count(counts.failed)} failed</span>` : nothing}</td>
    <td>${spark(/** @type {import("../lists/tables.js").Course} */ (study.sparkline), `Course of trial ${study.best_trial}`)}</td>
    <td class="end">${number(study.best_value)}</td>
    <td class="option muted">${study.metric ?? "loss"}</td>
    <td>${verdict(study.verdict)}</td>
    <td class="mono muted">${running?.worker ?? ""}</td>
    <td class="end" title=${clock(study.last_activity_at)}>${age}</td>
  </tr>`;
}

/** The state that says most about a study: what moves, then what waits, then how it ended. @param {Record<string, number>} counts */
function stateOf(counts) {
  return ["running", "queued", "paused", "complete", "failed", "pruned"].find((state) => counts[state]) ?? "cancelled";
}

/** @param {Schemas["TrialProgress"]} running */
function progressOf({ id, number, step, n_steps, eta_seconds }) {
  return html`<span class="progress">${state({ state: "running" })}
    <progress max=${n_steps} value=${step} aria-label=${`Trial ${number}`}></progress>
    <a class="num" href=${link("trial", id)} title=${`Trial ${number}: step ${count(step)} of ${count(n_steps)}`}>${percent(step / n_steps)}${
      eta_seconds == null ? nothing : html` · ${duration(eta_seconds)} left`}</a></span>`;
}

/** @param {readonly Study[]} studies @param {unknown} more @param {boolean} writes @param {(study: Study, name: string) => void} restored */
function deletedStudies(studies, more, writes, restored) {
  const now = Date.now();
  return html`<header class="toolbar page-head"><h1>Archived studies</h1><a href=${link("studies")}>All studies</a></header>
    <section class="panel flush">
      ${studies.length
        ? html`<div class="scroll" tabindex="0"><table class="list">
            <thead><tr><th scope="col">Study</th><th scope="col" class="end">Trials</th><th scope="col">Archived</th><th scope="col">Deleted for good</th>${writes ? html`<th scope="col">Restore</th>` : nothing}</tr></thead>
            <tbody>${repeat(studies, ({ id }) => id, (study) => html`<tr>
              <th scope="row" class="name"><span>${study.name}</span></th>
              <td class="end">${count(trialsIn(study.trial_counts))}</td>
              <td title=${study.deleted_at ? clock(study.deleted_at) : nothing}>${ago(study.deleted_at, now)}</td>
              <td class="muted">${study.purged_after ? `after ${clock(study.purged_after)}` : ""}</td>
              ${writes ? html`<td>${restoreForm(study, restored)}</td>` : nothing}
            </tr>`)}</tbody>
          </table></div>${more}`
        : empty("No study is archived.", html`<p>Studies that are archived can be restored here for some days.</p>`)}
    </section>`;
}

/** Another study may have the name by now. @param {Study} study @param {(study: Study, name: string) => void} restored */
function restoreForm(study, restored) {
  /** @param {SubmitEvent} event */
  const submit = (event) => {
    event.preventDefault();
    const field = /** @type {HTMLInputElement} */ (/** @type {HTMLFormElement} */ (event.currentTarget).elements.namedItem("name"));
    restored(study, field.value);
  };
  return html`<form class="toolbar" @submit=${submit}><input name="name" value=${study.name} required maxlength="200" aria-label=${`Name of ${study.name} when it is restored`}>
    <button>Restore</button></form>`;
}
