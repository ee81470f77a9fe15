/** The workers: what they run, what waits for them, and which can be stopped. */

import { get, send } from "../api.js";
import { count, duration, plural } from "../format.js";
import { firstWorker } from "../lists/first_steps.js";
import { SHORT } from "../poll.js";
import { link } from "../route.js";
import { confirmed, empty, skeleton } from "../ui.js";
import { html, nothing, render } from "../vendor/lit-html/lit-html.js";
import { repeat } from "../vendor/lit-html/directives/repeat.js";

/** @typedef {import("../store.js").Schemas["Worker"]} Worker @typedef {import("../store.js").Schemas["Workers"]} Workers */

const LATE = 15; // seconds without a heartbeat, half of what a worker may take before its trial is given to another

/** @param {import("../app.js").App} app @returns {import("../app.js").Page} */
export function workersPage(app) {
  const element = document.createElement("main");
  render(skeleton(), element);
  app.heading([{ text: "Workers" }], "Workers");

  const watch = app.polls.watch({
    read: () => get("/workers"),
    show: (/** @type {Workers} */ workers) => {
      draw(workers);
      return SHORT;
    },
  });

  /** @param {Worker} worker @param {boolean} drains */
  const drain = async (worker, drains) => {
    const title = drains ? `Drain ${worker.process}?` : `Let ${worker.process} take trials again?`;
    const text = drains ? "Its trials write a checkpoint and wait for another worker. It takes no more, and can be stopped when it is drained." : "It takes the next trials of the queue.";
    if (!(await confirmed(title, text, drains ? "Drain it" : "Let it take trials"))) return;
    await app.attempt(() => send(drains ? "POST" : "DELETE", `/workers/${worker.process}/drain`));
    watch.soon();
  };

  /** @param {Workers} workers */
  const draw = ({ items, queued }) => {
    const admin = app.me.scope === "admin";
    const processes = new Map(items.map((worker) => [worker.process, worker])); // each has the same load and drain
    const slots = items.length, busy = items.filter((worker) => worker.busy).length;
    render(
      html`<header class="toolbar page-head"><h1>Workers</h1>
          <p class="facts">${items.length ? html`${plural(processes.size, "process", "processes")} · ${count(busy)} of ${plural(slots, "slot")} busy · ` : nothing}<span
            class=${queued && !items.length ? "late" : ""}>${plural(queued, "trial")} ${queued === 1 ? "waits" : "wait"}</span></p></header>
        <section class="panel flush" aria-label="List of workers">
          ${items.length
            ? html`<div class="scroll" tabindex="0"><table class="list">
                <thead><tr>
                  <th scope="col">Worker</th><th scope="col">Status</th><th scope="col">Device</th><th scope="col" title="Busy slots of the process">Load</th><th scope="col">Trial</th>
                  <th scope="col" class="end">Step</th><th scope="col" class="end">Heartbeat</th><th scope="col" class="end" title="Waiting trials of all users that it could run">Queue</th><th scope="col">Versions</th>
                  ${admin ? html`<th scope="col"><span class="sr-only">Actions</span></th>` : nothing}
                </tr></thead>
                <tbody>${repeat(items, ({ id }) => id, (worker, i) => row(worker, admin && items[i - 1]?.process !== worker.process, admin, drain))}</tbody>
              </table></div>`
            : empty(queued ? `No worker runs, and ${plural(queued, "trial")} ${queued === 1 ? "waits" : "wait"}.` : "No worker runs.", firstWorker())}
        </section>`,
      element,
    );
  };
  return { element, destroy: () => watch.stop() };
}

/** @param {Worker} worker @param {boolean} isFirst of its process, which drains as a whole @param {boolean} admin @param {(worker: Worker, drains: boolean) => void} drain */
function row(worker, isFirst, admin, drain) {
  const age = worker.heartbeat_age_seconds;
  return html`<tr>
    <th scope="row" class="mono">${worker.id}</th>
    <td><span class="worker-status" data-status=${worker.status}>${worker.status}</span></td>
    <td class="mono">${worker.device}</td>
    <td><span class="progress"><progress max=${worker.slots} value=${worker.busy_slots} aria-label=${`Load of ${worker.process}`}></progress><span class="num">${worker.busy_slots} of ${worker.slots}</span></span></td>
    <td class="wrap">${worker.trial
      ? html`<a href=${link("trial", worker.trial)}>${worker.study} · trial ${worker.number}</a>`
      : html`<span class="muted">${worker.busy ? "of another user" : "–"}</span>`}</td>
    <td class="end">${worker.step == null ? html`<span class="muted">–</span>` : html`${count(worker.step)}<span class="muted"> of ${count(worker.n_steps ?? 0)}</span>`}</td>
    <td class="end ${age > LATE ? "late" : ""}" title=${age > LATE ? "It is late: its connection or its machine may be gone" : nothing}>${age < 2 ? "now" : `${duration(Math.floor(age))} ago`}${age > LATE ? ", late" : ""}</td>
    <td class="end">${count(worker.queue)}</td>
    <td class="muted">${Object.entries(worker.versions).map(([name, version]) => `${name} ${version}`).join(" · ")}</td>
    ${admin ? html`<td class="end">${isFirst ? drainButton(worker, drain) : nothing}</td>` : nothing}
  </tr>`;
}

/** @param {Worker} worker @param {(worker: Worker, drains: boolean) => void} drain */
function drainButton(worker, drain) {
  const drains = worker.draining_since === null;
  const all = worker.slots > 1 ? ` all ${worker.slots} slots` : "";
  return html`<button type="button" @click=${() => drain(worker, drains)}>${drains ? `Drain${all}` : "Let it take trials"}</button>`;
}
