/** One study: which trial is best, and why? */

import { mayWrite } from "../actions.js";
import { address, get, RequestRejected } from "../api.js";
import { Overlay } from "../charts/overlay.js";
import { DrawnRows } from "../lists/drawn_rows.js";
import { Edits } from "../lists/edits.js";
import { firstTrial } from "../lists/first_steps.js";
import { count, plural, short } from "../format.js";
import { Listing, pagesOf } from "../lists/listing.js";
import { LONG, SHORT } from "../poll.js";
import { link } from "../route.js";
import { archive } from "../lists/study_actions.js";
import { otherFilters, showMore, stateFilter, trialsIn } from "../lists/tables.js";
import { empty, number, skeleton } from "../ui.js";
import { html, nothing, render } from "../vendor/lit-html/lit-html.js";
import { walkRows } from "../lists/walk_rows.js";
import { missing } from "./missing.js";
import { trialTable } from "./study_trials.js";

/**
 * @typedef {import("../store.js").Study} Study
 * @typedef {import("../store.js").Schemas["TrialSummary"]} Trial
 * @typedef {{study: Study, list: import("../lists/listing.js").Listed<Trial>, best: Trial | null, query: Record<string, string>}} Shown
 */

const LIMIT = 100; // trials of a page of the list
const MOST_CURVES = 60;
const MOST_SELECTED = 10; // trials that are compared at once
const LEGEND = [["best", "best"], ["baseline", "baseline, not tuned"], ["other", "others"]]; // kinds of curves

/** @param {import("../app.js").App} app @param {import("../route.js").Route} route @returns {import("../app.js").Page} */
export function studyPage(app, route) {
  const element = document.createElement("main");
  element.className = "study";
  render(skeleton(), element);
  app.heading([{ text: "…" }], "Study");
  const selected = /** @type {Set<number>} */ (new Set());
  const edits = new Edits(app, () => {
    draw();
    watch.soon();
  });
  const rows = new DrawnRows();
  const plot = document.createElement("div");
  plot.className = "plot";
  const pointed = document.createElement("p");
  pointed.className = "pointed muted";
  const overlay = new Overlay(plot, "Course of the listed trials, step by step", (point) => sayPoint(point));
  let listing = listingOf(route);
  let shown = /** @type {Shown | null} */ (null);
  let drawn = /** @type {import("../charts/overlay.js").Curve[]} */ ([]);

  const watch = app.polls.watch({
    read: async () => {
      const { query } = route;
      try {
        const [study, list] = await Promise.all([app.store.study(route.id), listing.read(pagesOf(query))]);
        const best = list.items.find(({ id }) => id === study.best_trial_id) ?? (await bestOf(study));
        return { study, list, best, query };
      } catch (error) {
        if (error instanceof RequestRejected && error.status === 404) return null;
        throw error;
      }
    },
    show: (/** @type {Shown | null} */ read) => {
      if (!read) {
        shown = null;
        rows.begin();
        render(missing("There is no such study", "It was archived, or it belongs to another user.", "#/"), element);
        app.heading([{ text: "Study not found" }], "Study not found");
        return LONG;
      }
      if (read.query !== route.query) return SHORT; // another list was asked for meanwhile
      shown = read;
      app.heading([{ text: read.study.name }], read.study.name);
      drawn = curves(read);
      draw();
      overlay.show(drawn);
      const { running, queued } = read.study.trial_counts;
      return running || queued ? SHORT : LONG;
    },
  });

  /** @type {import("../lists/tables.js").To} */
  const to = (changes) => link("study", route.id, { ...route.query, ...changes });
  const sayPoint = (/** @type {import("../charts/overlay.js").Point | null} */ point) => {
    const trial = point && [...(shown?.list.items ?? []), shown?.best].find((one) => one?.id === point.key);
    pointed.textContent = point && trial ? `Trial ${trial.number} at step ${count(point.step)}: ${short(point.value)}` : "";
  };

  const draw = () => {
    if (!shown) return;
    rows.begin();
    const { study } = shown;
    const writes = mayWrite(app);
    const all = trialsIn(study.trial_counts);
    const isLarge = edits.isLarge(study);
    const about = html`${edits.note(study, writes)} ${edits.attributes(study, writes)}`;
    const direction = study.direction === "maximize" ? "higher is better" : "lower is better";
    render(
      html`<header class="page-head">
          <div class="toolbar"><h1>${study.name}</h1>${edits.tags(study, writes, ({ tag }) => link("studies", "", { tag }))}
            <span class="toolbar end">
              ${all ? html`<a href=${address(`/studies/${study.id}/trials.csv`)} download>Download trials.csv</a>` : nothing}
              ${writes ? html`<button type="button" class="danger" @click=${() => archiveThis(study)}>Archive</button>` : nothing}
            </span></div>
          <p class="facts"><span class="mono">${study.metric ?? "loss"}</span>, ${direction} · ${plural(all, "trial")}${study.best_trial_id
            ? html` · best ${number(study.best_value)} in <a href=${link("trial", study.best_trial_id)}>trial ${study.best_trial}</a>`
            : nothing}</p>
          ${isLarge ? nothing : html`<p class="toolbar">${about}</p>`}
        </header>
        ${isLarge ? html`<section class="panel about" aria-label="Note and attributes">${about}</section>` : nothing}
        ${all ? html`${curvesPanel(study)} ${trials(shown)}` : html`<section class="panel">${empty("No trials yet. Submit the first one.", firstTrial(study))}</section>`}`,
      element,
    );
  };

  const curvesPanel = (/** @type {Study} */ study) => {
    const legend = LEGEND.filter(([kind]) => drawn.some((curve) => curve.kind === kind && curve.values.length));
    return html`<section class="panel courses" aria-label="Courses">
    <header><h2>${study.metric ?? "Loss"} over steps</h2>
      <p class="legend muted">${legend.map(([kind, text]) => html`<span class="key ${kind}"></span> ${text} `)}</p>
      ${pointed}</header>
    ${plot}
  </section>`;
  };

  /** @param {Shown} shown */
  const trials = ({ study, list, query }) => {
    const { items, more } = list;
    const replace = (/** @type {Record<string, string>} */ changes) => app.replace(to(changes));
    const how = {
      study, query, to, rows, selected, mostSelected: MOST_SELECTED,
      select: (/** @type {number} */ trial, /** @type {boolean} */ isSelected) => {
        if (isSelected) selected.add(trial);
        else selected.delete(trial);
        draw();
      },
      point: (/** @type {string | null} */ id) => overlay.embolden(id),
    };
    const all = trialsIn(study.trial_counts);
    return html`<section class="panel flush" aria-label="Trials">
      <header class="toolbar"><h2>Trials</h2>
        ${stateFilter(study.trial_counts, query.state ?? "", to, `${count(all)} in all`)} ${otherFilters(query, to)}
        <span class="toolbar end">${selected.size ? comparison(study) : html`<span class="muted">Select trials to compare them.</span>`}</span></header>
      ${items.length ? html`<div class="scroll" tabindex="0">${trialTable(items, how)}</div>` : empty("No trial fits.", html`<p><a href=${link("study", study.id)}>Show all trials</a></p>`)}
      ${showMore(more, query, replace, items.length)}
    </section>`;
  };

  const comparison = (/** @type {Study} */ study) => html`<span>${count(selected.size)} selected${selected.size === MOST_SELECTED ? ", the most" : ""}</span>
    ${selected.size > 1 ? html`<a class="button primary" href=${link("compare", study.id, { trials: [...selected].sort((a, b) => a - b).join(",") })}>Compare</a>` : nothing}
    <button type="button" class="quiet" @click=${() => { selected.clear(); draw(); }}>Select none</button>`;

  const archiveThis = async (/** @type {Study} */ study) => {
    if (await archive(app, [study])) location.hash = link("studies");
  };

  const stopWalking = walkRows(element);
  return {
    element,
    changed: (changed) => {
      const isSameList = listKey(changed) === listKey(route);
      route = changed;
      if (!isSameList) listing = listingOf(route);
      watch.soon();
    },
    destroy: () => {
      stopWalking();
      watch.stop();
      overlay.destroy();
    },
  };
}

/** @param {import("../route.js").Route} route @returns {Listing<Trial>} */
function listingOf({ id, query: { q, tag, state, sort, order } }) {
  return new Listing(`/studies/${id}/trials`, { q, tag, state, sort, order, limit: LIMIT });
}

/** @param {import("../route.js").Route} route */
function listKey({ query: { q, tag, state, sort, order } }) {
  return JSON.stringify([q, tag, state, sort, order]);
}

/** The best trial of a study, which may be on another page of the list. @param {Study} study @returns {Promise<Trial | null>} */
async function bestOf(study) {
  if (study.best_trial === null) return null;
  return (await get(`/studies/${study.id}/trials`, { number: study.best_trial })).items[0] ?? null;
}

/** The curves of the trials, the best on top. @param {Shown} shown @returns {import("../charts/overlay.js").Curve[]} */
function curves({ list, best }) {
  const others = list.items.filter(({ id }) => id !== best?.id);
  const baselines = others.filter(({ tunes }) => !tunes);
  const tuned = others.filter(({ tunes }) => tunes).slice(0, MOST_CURVES - 1 - Math.min(baselines.length, MOST_CURVES / 2));
  const all = /** @type {[Trial, string][]} */ ([
    ...tuned.reverse().map((trial) => [trial, "other"]),
    ...baselines.slice(0, MOST_CURVES / 2).map((trial) => [trial, "baseline"]),
    ...(best ? [[best, "best"]] : []),
  ]);
  return all.map(([{ id, sparkline }, kind]) => ({ key: id, kind, steps: sparkline.steps ?? [], values: sparkline.values ?? [] }));
}
