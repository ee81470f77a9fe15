/** What the pages know: trials with their steps, read in parts, kept bounded, and never changed in place. */

import { get, RequestRejected } from "./api.js";

/**
 * @typedef {import("./openapi.d.ts").components["schemas"]} Schemas
 * @typedef {Schemas["Trial"]} Trial
 * @typedef {Schemas["Study"]} Study
 * @typedef {(number | null)[]} Column
 * @typedef {{number: number[]} & Record<string, Column>} Steps columns of equal length, in order of `number`
 * @typedef {{trial: Trial, study: Study, steps: Steps}} Snapshot a trial as of one moment; a new object if anything changed
 */

/** The fields of steps that the panels draw. */
export const COLUMNS = [
  "number", "train_loss", "val_loss", "value", "held_out_loss", "test_loss", "hypergradient_norm", "hypergradient_cosine",
  "inner_gradient_norm", "inner_gradient_ratio", "residual", "alpha_norm", "products",
];
export const POINTS = 1_000; // steps that are read at once: of more, those that a plot needs
const MOST_POINTS = 2_000; // then all are read again, thinned
const MAX_TRIALS = 12; // whose steps are kept
const MAX_ANSWERS = 200; // of other reads: a comparison has 120
const MOST_BASELINES = 100; // of a page
const AGE = 10_000; // milliseconds after which what is long, and changes with each step, is read again

export class Store {
  /** @type {Map<string, {attempt: number, after: number, steps: Steps}>} */
  #steps = new Map();
  /** @type {Map<string, {version: string, promise: Promise<Steps>}>} */
  #reading = new Map();
  /** @type {Map<string, {seq: number, at: number, promise: Promise<any>}>} */
  #answers = new Map();

  /** A study. @param {string} id @returns {Promise<Study>} */
  study(id) {
    return get(`/studies/${id}`);
  }

  /**
   * The best trial of a study under the hyperparameters that it began with; null if it has no such trial. One that
   * judges another trial starts from it, and there may be hundreds of these.
   * @param {Study} study @returns {Promise<Schemas["TrialSummary"] | null>}
   */
  async baseline(study) {
    const order = study.direction === "minimize" ? "asc" : "desc";
    const query = { tunes: false, sort: "best_value", order, limit: MOST_BASELINES };
    let page = await get(`/studies/${study.id}/trials`, query);
    for (;;) {
      const found = page.items.find((/** @type {Schemas["TrialSummary"]} */ trial) => trial.starts_from === null && trial.best_value !== null);
      if (found || !page.next_cursor) return found ?? null;
      page = await get(`/studies/${study.id}/trials`, { ...query, cursor: page.next_cursor });
    }
  }

  /** A trial. @param {string} id @returns {Promise<Trial>} */
  trial(id) {
    return get(`/trials/${id}`);
  }

  /**
   * What a trial has at a path below its own, as of `trial`. While steps come in quickly, it may be ten seconds old.
   * @param {Trial} trial @param {string} path such as "/hyperparameters" @param {Record<string, any>} [query]
   */
  of(trial, path, query = {}) {
    const key = `${trial.id} ${path} ${JSON.stringify(query)}`;
    const known = this.#answers.get(key);
    if (known && (known.seq === trial.seq || (trial.state === "running" && Date.now() - known.at < AGE))) return known.promise;
    const promise = get(`/trials/${trial.id}${path}`, query);
    this.#answers.delete(key);
    this.#answers.set(key, { seq: trial.seq, at: Date.now(), promise });
    for (const oldest of [...this.#answers.keys()].slice(0, -MAX_ANSWERS)) this.#answers.delete(oldest);
    promise.catch((error) => {
      // "There is no such thing" is an answer, too, and is not asked for again.
      if (!(error instanceof RequestRejected && [404, 409].includes(error.status))) this.#answers.delete(key);
    });
    return promise;
  }

  /**
   * The steps of a trial as of `trial`: only those that are not known are read. The same object while nothing changes.
   * @param {Trial} trial @returns {Promise<Steps>}
   */
  steps(trial) {
    const version = `${trial.attempt} ${trial.step}`;
    const reading = this.#reading.get(trial.id);
    if (reading?.version === version) return reading.promise;
    const promise = this.#read(trial);
    this.#reading.delete(trial.id);
    this.#reading.set(trial.id, { version, promise });
    for (const oldest of [...this.#reading.keys()].slice(0, -MAX_TRIALS)) {
      this.#reading.delete(oldest);
      this.#steps.delete(oldest);
    }
    promise.catch(() => this.#reading.delete(trial.id)); // so that the next call tries again
    return promise;
  }

  /** @param {Trial} trial */
  async #read(trial) {
    const known = this.#steps.get(trial.id);
    // A new attempt may have rolled steps back, and many small reads together are more than a plot needs.
    const goesOn = known && known.attempt === trial.attempt && known.after <= trial.step && known.steps.number.length < MOST_POINTS;
    let { after, steps } = goesOn ? known : { after: 0, steps: empty() };
    while (after < trial.step) {
      const body = await get(`/trials/${trial.id}/steps`, { after, columns: COLUMNS.join(","), max_points: POINTS });
      steps = joined(steps, body.columns);
      after = body.next_after ?? Math.max(after, steps.number.at(-1) ?? 0);
      if (body.next_after === null) break;
    }
    this.#steps.set(trial.id, { attempt: trial.attempt, after, steps });
    return steps;
  }
}

/** @returns {Steps} */
function empty() {
  return /** @type {any} */ (Object.fromEntries(COLUMNS.map((name) => [name, []])));
}

/** @param {Steps} before @param {Record<string, any[]>} more @returns {Steps} */
export function joined(before, more) {
  return /** @type {Steps} */ (Object.fromEntries(Object.keys(before).map((name) => [name, [...before[name], ...(more[name] ?? [])]])));
}

/** The last value of a column that is one. @param {Column} column */
export function last(column) {
  return column.findLast((value) => value !== null) ?? null;
}
