/** How to begin, as text to copy, with the address of this server filled in. */

import { serverAddress } from "../api.js";
import { snippet } from "../ui.js";
import { html } from "../vendor/lit-html/lit-html.js";

/** How the first study is made. */
export function firstStudy() {
  const server = serverAddress();
  return html`${inPython(`import nestor
study = nestor.create_study("my first study", server=${python(server)}, load_if_exists=True)
study.optimize(problem, n_steps=300)  # problem: a nestor.Problem with your model, losses and data`)}
    <p>Or with curl:</p>
    ${snippet(`curl -H "Authorization: Bearer $NESTOR_TOKEN" ${server}/api/v1/studies \\
  -d '{"name": "my first study"}'`, "a request with curl")}
    ${token()}`;
}

/** How the first trial of a study is submitted. @param {{id: string, name: string}} study */
export function firstTrial({ id, name }) {
  const server = serverAddress();
  return html`${inPython(`import nestor
study = nestor.create_study(${python(name)}, server=${python(server)}, load_if_exists=True)
study.optimize(problem, n_steps=300)  # problem: a nestor.Problem with your model, losses and data`)}
    <p>Or with curl, a problem that every worker can build: a weight decay for each weight of a small network.</p>
    ${snippet(
      `curl -H "Authorization: Bearer $NESTOR_TOKEN" ${server}/api/v1/studies/${id}/trials -d '{
  "problem": {"preset": {"model": {"hidden": [32]}, "hyperparameters": [{"kind": "l2", "per": "weight"}]}},
  "n_steps": 100, "inner": {"optimizer": "adam", "lr": 1e-3}
}'`,
      "a request with curl",
    )}
    ${token()}`;
}

/** How a worker is started. */
export function firstWorker() {
  return html`<p>On a machine that reaches the databases of this server, with the same <code>NESTOR_DATABASE_URL</code> and <code>NESTOR_REDIS_URL</code>:</p>
    ${snippet("nestor worker", "the command that starts a worker")}`;
}

/** @param {string} code */
function inPython(code) {
  return html`<p>In Python:</p>${snippet(code, "the code in Python")}`;
}

function token() {
  return html`<p>Both read your token from <code>NESTOR_TOKEN</code>. On the server's machine, <code>nestor token create</code> prints one.</p>`;
}

/** A literal of Python. @param {string} text */
function python(text) {
  return JSON.stringify(text);
}
