/** The page: who is logged in, which study and trial are chosen, and when to look again. */

import { get, Refused, send, Unavailable } from "./api.js";
import { showStudies, showTrial, showTrials } from "./views.js";

const SOON = 2_000, LATER = 10_000, LONGEST_PAUSE = 30_000; // milliseconds
const COLUMNS = "number,train_loss,val_loss,held_out_loss,test_loss,hypergradient_norm,inner_gradient_norm,residual,outcome,val_metrics";
const STEPS_AT_ONCE = 10_000;

/** @param {string} id @returns {any} */
const find = (id) => document.getElementById(id);

const chosen = { study: "", trial: "" };
/** What is known of the chosen trial's steps: `after` is the last one. */
let steps = { trial: "", attempt: -1, after: 0, columns: /** @type {Record<string, any[]>} */ ({}) };
let failures = 0;
let staleSince = /** @type {Date | null} */ (null);
let timer = 0;
let looking = false;
let again = false; // something was chosen or done while we looked
let listsDue = 0; // when the lists are read again; they are long, and change seldom
let study = /** @type {any} */ (null);
let trials = /** @type {any[]} */ ([]);

// --- looking ---------------------------------------------------------------------------------------

/** Look at everything that is shown, then decide when to look again. */
async function look() {
  clearTimeout(timer);
  again = looking;
  if (looking || document.hidden || find("page").hidden) return;
  looking = true;
  let pause = LATER;
  try {
    pause = await read();
    failures = 0;
    staleSince = null;
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return logIn();
    if (error instanceof Refused && error.status === 404) return choose({ study: "", trial: "" });
    if (!(error instanceof Unavailable)) throw error;
    staleSince ??= new Date();
    pause = Math.min(SOON * 2 ** failures++, LONGEST_PAUSE);
  } finally {
    looking = false;
    showStale();
  }
  timer = setTimeout(look, again ? 0 : pause);
}

function showStale() {
  const stale = find("stale");
  stale.hidden = staleSince === null;
  if (staleSince) stale.textContent = `Stale since ${staleSince.toLocaleTimeString()}: the server does not answer. Trying again.`;
}

/** @returns {Promise<number>} milliseconds until the next look */
async function read() {
  const now = Date.now();
  if (now >= listsDue) {
    await readLists();
    listsDue = now + LATER;
  }
  const trial = chosen.trial ? await readTrial() : null;
  find("trial").hidden = !trial;
  return trial?.state === "running" ? SOON : Math.max(listsDue - Date.now(), SOON);
}

async function readLists() {
  const { body: studies } = await get("/studies?limit=200");
  showStudies(studies.items, chosen.study, (/** @type {string} */ study) => choose({ study, trial: "" }));
  study = studies.items.find((/** @type {any} */ one) => one.id === chosen.study);
  find("study").hidden = !study;
  if (!study) return;
  trials = (await get(`/studies/${study.id}/trials?limit=1000`)).body.items;
  if (!chosen.trial && trials.length) chosen.trial = trials.at(-1).id;
  showTrials(study, trials, chosen.trial, (/** @type {string} */ trial) => choose({ ...chosen, trial }));
}

/** The chosen trial; one that is finished is not asked for again. */
async function readTrial() {
  const before = trials.find((one) => one.id === chosen.trial);
  const final = before?.finished_at && steps.trial === before.id && steps.after === before.step;
  const trial = final ? before : (await get(`/trials/${chosen.trial}`)).body;
  if (steps.trial !== trial.id || steps.attempt !== trial.attempt) {
    // Another attempt may have taken steps back: read them anew.
    steps = { trial: trial.id, attempt: trial.attempt, after: 0, columns: {} };
  }
  if (trial.step !== steps.after) await readSteps(trial.id);
  showTrial(trial, steps.columns);
  if (study) {
    trials = trials.map((one) => (one.id === trial.id ? trial : one));
    showTrials(study, trials, chosen.trial, (/** @type {string} */ id) => choose({ ...chosen, trial: id }));
  }
  return trial;
}

/** @param {string} trial */
async function readSteps(trial) {
  for (;;) {
    const path = `/trials/${trial}/steps?after=${steps.after}&columns=${COLUMNS}&limit=${STEPS_AT_ONCE}`;
    const { body } = await get(path);
    for (const [name, values] of Object.entries(body.columns)) (steps.columns[name] ??= []).push(...values);
    const numbers = body.columns.number;
    steps.after = numbers.at(-1) ?? steps.after;
    if (numbers.length < STEPS_AT_ONCE) return;
  }
}

// --- choosing and acting ---------------------------------------------------------------------------

/** @param {{study: string, trial: string}} what */
function choose(what) {
  Object.assign(chosen, what);
  history.replaceState(null, "", chosen.study ? `#${new URLSearchParams(chosen)}` : location.pathname);
  listsDue = 0;
  look();
}

for (const button of document.querySelectorAll("[data-action]")) {
  button.addEventListener("click", () => act(/** @type {HTMLElement} */ (button).dataset.action ?? ""));
}

/** @param {string} action */
async function act(action) {
  if (action === "cancel" && !confirm("Cancel this trial? What was recorded stays; it cannot go on.")) return;
  const field = find("more-steps");
  if (action === "extend" && !field.reportValidity()) return;
  const content = action === "extend" ? { steps: field.valueAsNumber } : undefined;
  await guarded(() => send("POST", `/trials/${chosen.trial}/${action}`, content));
  listsDue = 0;
  look();
}

/** Do it, and show the server's reason if it refuses. @param {() => Promise<any>} what */
async function guarded(what) {
  const problem = find("problem");
  problem.hidden = true;
  try {
    return await what();
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    problem.textContent = error.message;
    problem.hidden = false;
  }
}

// --- who -------------------------------------------------------------------------------------------

function logIn() {
  clearTimeout(timer);
  find("page").hidden = find("leave").hidden = true;
  find("who").textContent = "";
  find("login").hidden = false;
  find("token").focus();
}

/** @param {{user: string, scope: string}} me */
function welcome(me) {
  find("who").textContent = `${me.user} (${me.scope})`;
  find("login").hidden = true;
  find("page").hidden = find("leave").hidden = false;
  look();
}

find("login").addEventListener("submit", async (/** @type {Event} */ event) => {
  event.preventDefault();
  const field = find("token");
  const me = await guarded(() => send("POST", "/session", { token: field.value.trim() }));
  if (me) field.value = "";
  if (me) welcome(me);
});

find("leave").addEventListener("click", async () => {
  await guarded(() => send("DELETE", "/session"));
  logIn();
});

async function begin() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const token = fragment.get("token");
  if (token) {
    // Out of the address bar and the history before anything else happens.
    history.replaceState(null, "", location.pathname);
    const me = await guarded(() => send("POST", "/session", { token }));
    return me ? welcome(me) : logIn();
  }
  Object.assign(chosen, { study: fragment.get("study") ?? "", trial: fragment.get("trial") ?? "" });
  try {
    welcome((await get("/me")).body);
  } catch (error) {
    if (error instanceof Refused) return logIn();
    find("stale").textContent = "The server does not answer. Trying again.";
    find("stale").hidden = false;
    setTimeout(begin, SOON);
  }
}

document.addEventListener("visibilitychange", look);
window.addEventListener("hashchange", begin);
begin();
