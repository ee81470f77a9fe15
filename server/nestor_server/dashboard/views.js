/** Renders studies and trials. Text of users is only set by textContent, so it cannot inject HTML. */

import { draw, short } from "./chart.js";

/** @param {string} id @returns {any} */
const find = (id) => document.getElementById(id);
/** What a running trial is about to do, by its desired state. */
const PENDING = { pause: "pausing", stop: "stopping", prune: "being pruned", cancel: "canceling", preempt: "being preempted" };

/** @param {any[]} studies @param {string} selected @param {(id: string) => void} select */
export function showStudies(studies, selected, select) {
  find("no-studies").hidden = studies.length > 0;
  rows("studies", studies, selected, select, (study) => {
    const counts = Object.entries(study.trial_counts).map(([state, count]) => `${count} ${state}`);
    return [button(study.name), text(counts.join(", ") || "none"), number(study.best_value)];
  });
}

/** @param {any} study @param {any[]} trials @param {string} selected @param {(id: string) => void} select */
export function showTrials(study, trials, selected, select) {
  find("study-title").textContent = study.name;
  find("no-trials").hidden = trials.length > 0;
  rows("trials", trials, selected, select, (trial) => [
    button(`Trial ${trial.number}`),
    state(trial),
    text(`${trial.step} / ${trial.n_steps}`, "number"),
    number(trial.value),
    number(trial.best_value),
  ]);
}

/** @param {any} trial @param {Record<string, any[]>} columns @param {string | null} metric that ranks the study's trials */
export function showTrial(trial, columns, metric) {
  find("trial-title").textContent = `Trial ${trial.number}`;
  const mark = find("trial-state");
  mark.textContent = stateText(trial);
  mark.dataset.state = trial.state;
  for (const element of document.querySelectorAll("[data-action]")) {
    const action = /** @type {HTMLButtonElement} */ (element);
    action.disabled = !trial.allowed_actions.includes(action.dataset.action ?? "");
  }
  find("more-steps").disabled = !trial.allowed_actions.includes("extend");
  find("trial-error").hidden = !trial.error;
  find("trial-error").textContent = trial.error?.detail ?? "";
  find("trial-steps").textContent = `Step ${trial.step} of ${trial.n_steps}`;
  find("trial-progress").max = trial.n_steps;
  find("trial-progress").value = trial.step;

  draw(find("curve"), {
    numbers: columns.number ?? [],
    steps: trial.n_steps,
    x: "outer step",
    y: "loss",
    curves: [
      { name: "validation", kind: "validation", values: columns.val_loss ?? [] },
      { name: "training", kind: "train", values: columns.train_loss ?? [] },
      { name: "held out", kind: "held-out", values: columns.held_out_loss ?? [] },
      { name: "test", kind: "test", values: columns.test_loss ?? [] },
    ],
  });

  const last = (/** @type {string} */ name) => columns[name]?.at(-1);
  const heldOut = last("held_out_loss") != null;
  const evaluated = (columns.value ?? []).findLastIndex((value) => value !== null);
  const judged = heldOut ? "Held-out" : "Validation"; // the examples that judge the trial
  const numbers = {
    "Validation loss": short(last("val_loss") ?? NaN),
    "Training loss": short(last("train_loss") ?? NaN),
    ...(heldOut ? { "Held-out loss": short(last("held_out_loss")) } : evaluated < 0 ? {} : { "Validation loss, all examples": short(columns.value[evaluated]) }),
    [`Best ${metric ?? `${judged.toLowerCase()} loss`}`]: trial.best_value === null ? "–" : `${short(trial.best_value)} at step ${trial.best_step}`,
    "Hypergradient norm": short(last("hypergradient_norm") ?? NaN),
    "Inner gradient norm": short(last("inner_gradient_norm") ?? NaN),
    "Linear solve": last("outcome") == null ? "–" : `${last("outcome")}, residual ${short(last("residual") ?? NaN)}`,
    ...Object.fromEntries(Object.entries(last("val_metrics") ?? {}).map(([name, value]) => [`Validation ${name}`, short(value)])),
    ...Object.fromEntries(Object.entries(columns.metrics?.[evaluated] ?? {}).map(([name, value]) => [`${judged} ${name}, all examples`, short(value)])),
    Attempt: String(trial.attempt),
    Worker: trial.worker ?? "–",
  };
  find("numbers").replaceChildren(
    ...Object.entries(numbers).map(([name, value]) => {
      const pair = document.createElement("div");
      const term = document.createElement("dt"), description = document.createElement("dd");
      term.textContent = name;
      description.textContent = value;
      pair.append(term, description);
      return pair;
    }),
  );
}

/**
 * Fill a table. Existing rows are kept, so that they keep the keyboard focus.
 * @param {string} id @param {any[]} items @param {string} selected
 * @param {(id: string) => void} select @param {(item: any) => HTMLTableCellElement[]} cells
 */
function rows(id, items, selected, select, cells) {
  const body = document.querySelector(`#${id} tbody`);
  if (!body) return;
  find(id).hidden = items.length === 0;
  const existing = new Map([...body.children].map((row) => [/** @type {HTMLElement} */ (row).dataset.id, row]));
  items.forEach((item, index) => {
    const newCells = cells(item);
    const row = /** @type {HTMLTableRowElement} */ (existing.get(item.id) ?? document.createElement("tr"));
    existing.delete(item.id);
    if (row.cells.length) {
      newCells.slice(1).forEach((cell, at) => row.cells[at + 1].replaceWith(cell)); // the first holds the button
    } else {
      row.dataset.id = item.id;
      row.append(...newCells);
      row.querySelector("button")?.addEventListener("click", () => select(item.id));
    }
    if (item.id === selected) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
    if (body.children[index] !== row) body.insertBefore(row, body.children[index] ?? null);
  });
  for (const row of existing.values()) row.remove();
}

/** @param {any} trial */
function stateText(trial) {
  const pending = PENDING[/** @type {keyof typeof PENDING} */ (trial.desired)];
  return trial.state === "running" && pending ? `running, ${pending}` : trial.state;
}

/** @param {any} trial */
function state(trial) {
  const cell = document.createElement("td"), mark = document.createElement("span");
  mark.className = "state";
  mark.dataset.state = trial.state;
  mark.textContent = stateText(trial);
  cell.append(mark);
  return cell;
}

/** @param {string} label */
function button(label) {
  const cell = document.createElement("td"), made = document.createElement("button");
  made.type = "button";
  made.className = "link";
  made.textContent = label;
  cell.append(made);
  return cell;
}

/** @param {string} value @param {string} [kind] */
function text(value, kind = "") {
  const cell = document.createElement("td");
  cell.textContent = value;
  cell.className = kind;
  return cell;
}

/** @param {number | null} value */
function number(value) {
  return text(value === null ? "–" : short(value), "number");
}
