/** The page: login, the selected study and trial, and polling. */

import { get, RequestRejected, send, Unavailable } from "./api.js";
import { showStudies, showTrial, showTrials } from "./views.js";

const SHORT_PAUSE = 2_000, LONG_PAUSE = 10_000, MAX_PAUSE = 30_000; // milliseconds between two polls
const COLUMNS = "number,train_loss,val_loss,held_out_loss,test_loss,hypergradient_norm,inner_gradient_norm,residual,outcome,value,metrics,val_metrics";
const MAX_POINTS = 1_000; // steps of a trial that are read at once; a longer one is thinned
const MAX_TRIALS = 1_000; // in the list

/** @param {string} id @returns {any} */
const find = (id) => document.getElementById(id);

const selected = { study: "", trial: "" };
/** The loaded steps of the selected trial: `after` is the last one. */
let steps = { trial: "", attempt: -1, after: 0, columns: /** @type {Record<string, any[]>} */ ({}) };
let failures = 0;
let staleSince = /** @type {Date | null} */ (null);
let timer = 0;
let refreshing = false;
let refreshAgain = false; // something was selected or done during a refresh
let listsDueAt = 0; // time of the next reading of the lists, which are long and change seldom
let study = /** @type {any} */ (null);
let trials = /** @type {any[]} */ ([]);

// --- polling ---------------------------------------------------------------------------------------

/** Read and show everything, then schedule the next refresh. */
async function refresh() {
  clearTimeout(timer);
  refreshAgain = refreshing;
  if (refreshing || document.hidden || find("page").hidden) return;
  refreshing = true;
  let pause = LONG_PAUSE;
  try {
    pause = await read();
    failures = 0;
    staleSince = null;
  } catch (error) {
    if (error instanceof RequestRejected && error.status === 401) return logIn();
    if (error instanceof RequestRejected && error.status === 404) return select({ study: "", trial: "" });
    if (!(error instanceof Unavailable)) throw error;
    staleSince ??= new Date();
    pause = Math.min(SHORT_PAUSE * 2 ** failures++, MAX_PAUSE);
  } finally {
    refreshing = false;
    showStale();
  }
  timer = setTimeout(refresh, refreshAgain ? 0 : pause);
}

function showStale() {
  const stale = find("stale");
  stale.hidden = staleSince === null;
  if (staleSince) stale.textContent = `Stale since ${staleSince.toLocaleTimeString()}: the server does not answer. Trying again.`;
}

/** @returns {Promise<number>} milliseconds until the next refresh */
async function read() {
  const now = Date.now();
  if (now >= listsDueAt) {
    await readLists();
    listsDueAt = now + LONG_PAUSE;
  }
  const trial = selected.trial ? await readTrial() : null;
  find("trial").hidden = !trial;
  return trial?.state === "running" ? SHORT_PAUSE : Math.max(listsDueAt - Date.now(), SHORT_PAUSE);
}

async function readLists() {
  const { body: studies } = await get("/studies?limit=200");
  showStudies(studies.items, selected.study, (/** @type {string} */ study) => select({ study, trial: "" }));
  study = studies.items.find((/** @type {any} */ one) => one.id === selected.study);
  find("study").hidden = !study;
  if (!study) return;
  trials = await readTrials(study.id);
  if (!selected.trial && trials.length) selected.trial = trials[0].id;
  showTrials(study, trials, selected.trial, (/** @type {string} */ trial) => select({ ...selected, trial }));
}

/** The newest trials of a study; a page ends early if its trials are large. @param {string} study */
async function readTrials(study) {
  const found = [];
  for (let cursor = ""; found.length < MAX_TRIALS; ) {
    const { body } = await get(`/studies/${study}/trials?limit=${MAX_TRIALS}${cursor}`);
    found.push(...body.items);
    if (body.next_cursor === null) break;
    cursor = `&cursor=${body.next_cursor}`;
  }
  return found.slice(0, MAX_TRIALS);
}

/** The selected trial. A finished one with all its steps is not requested again. */
async function readTrial() {
  const before = trials.find((one) => one.id === selected.trial);
  const final = before?.finished_at && steps.trial === before.id && steps.after === before.step;
  const trial = final ? before : (await get(`/trials/${selected.trial}`)).body;
  if (steps.trial !== trial.id || steps.attempt !== trial.attempt) {
    // A new attempt may have rolled steps back, so read all of them.
    steps = { trial: trial.id, attempt: trial.attempt, after: 0, columns: {} };
  }
  if (trial.step !== steps.after) await readSteps(trial.id);
  showTrial(trial, steps.columns, study?.metric ?? null);
  if (study) {
    trials = trials.map((one) => (one.id === trial.id ? trial : one));
    showTrials(study, trials, selected.trial, (/** @type {string} */ id) => select({ ...selected, trial: id }));
  }
  return trial;
}

/** @param {string} trial */
async function readSteps(trial) {
  for (;;) {
    const path = `/trials/${trial}/steps?after=${steps.after}&columns=${COLUMNS}&max_points=${MAX_POINTS}`;
    const { body } = await get(path);
    for (const [name, values] of Object.entries(body.columns)) (steps.columns[name] ??= []).push(...values);
    steps.after = body.columns.number.at(-1) ?? steps.after;
    if (body.next_after === null) return;
  }
}

// --- selection and actions -------------------------------------------------------------------------

/** @param {{study: string, trial: string}} what */
function select(what) {
  Object.assign(selected, what);
  history.replaceState(null, "", selected.study ? `#${new URLSearchParams(selected)}` : location.pathname);
  listsDueAt = 0;
  refresh();
}

for (const button of document.querySelectorAll("[data-action]")) {
  button.addEventListener("click", () => sendAction(/** @type {HTMLElement} */ (button).dataset.action ?? ""));
}

/** @param {string} action */
async function sendAction(action) {
  if (action === "cancel" && !confirm("Cancel this trial? Its records are kept, but it cannot be resumed.")) return;
  const field = find("more-steps");
  if (action === "extend" && !field.reportValidity()) return;
  const content = action === "extend" ? { steps: field.valueAsNumber } : undefined;
  await showingErrors(() => send("POST", `/trials/${selected.trial}/${action}`, content));
  listsDueAt = 0;
  refresh();
}

/** Call `request`, and show its error if it fails. @param {() => Promise<any>} request */
async function showingErrors(request) {
  const problem = find("problem");
  problem.hidden = true;
  try {
    return await request();
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    problem.textContent = error.message;
    problem.hidden = false;
  }
}

// --- login -----------------------------------------------------------------------------------------

function logIn() {
  clearTimeout(timer);
  find("page").hidden = find("leave").hidden = true;
  find("who").textContent = "";
  find("login").hidden = false;
  find("token").focus();
}

/** @param {{user: string, scope: string}} me */
function showPage(me) {
  find("who").textContent = `${me.user} (${me.scope})`;
  find("login").hidden = true;
  find("page").hidden = find("leave").hidden = false;
  refresh();
}

find("login").addEventListener("submit", async (/** @type {Event} */ event) => {
  event.preventDefault();
  const field = find("token");
  const me = await showingErrors(() => send("POST", "/session", { token: field.value.trim() }));
  if (me) field.value = "";
  if (me) showPage(me);
});

find("leave").addEventListener("click", async () => {
  await showingErrors(() => send("DELETE", "/session"));
  logIn();
});

async function start() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const token = fragment.get("token");
  if (token) {
    // Remove the token from the address bar and the history first.
    history.replaceState(null, "", location.pathname);
    const me = await showingErrors(() => send("POST", "/session", { token }));
    return me ? showPage(me) : logIn();
  }
  Object.assign(selected, { study: fragment.get("study") ?? "", trial: fragment.get("trial") ?? "" });
  try {
    showPage((await get("/me")).body);
  } catch (error) {
    if (error instanceof RequestRejected) return logIn();
    find("stale").textContent = "The server does not answer. Trying again.";
    find("stale").hidden = false;
    setTimeout(start, SHORT_PAUSE);
  }
}

document.addEventListener("visibilitychange", refresh);
window.addEventListener("hashchange", start);
start();
