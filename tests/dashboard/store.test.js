import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { forget } from "../../server/nestor_server/dashboard/api.js";
import { COLUMNS, POINTS, Store, last } from "../../server/nestor_server/dashboard/store.js";

/** A server that answers from a function, as fetch does. */
let asked, server;
globalThis.fetch = async (address, options) => {
  const url = new URL(address, "http://server/");
  asked.push({ path: url.pathname, query: Object.fromEntries(url.searchParams), headers: options.headers });
  return server(url, options);
};
const json = (body, headers = {}) => Response.json(body, { headers });

/** The steps after a number, as the server thins them. */
function steps(total) {
  return (url) => {
    const after = Number(url.searchParams.get("after"));
    const all = Array.from({ length: total - after }, (_, i) => after + i + 1);
    const stride = Math.max(1, Math.ceil(all.length / POINTS));
    const number = all.filter((n, i) => i % stride === 0 || i === all.length - 1);
    return json({ columns: Object.fromEntries(COLUMNS.map((name) => [name, number])), next_after: null, seq: total });
  };
}

let store;
beforeEach(() => {
  [asked, store] = [[], new Store()];
  forget();
});
const trial = (step, attempt = 1) => ({ id: "t", step, attempt, seq: step, state: "running" });

test("only the steps that are not known are read, and nothing while nothing changes", async () => {
  server = steps(30);
  const first = await store.steps(trial(30));
  assert.equal(first.number.length, 30);
  assert.equal(await store.steps(trial(30)), first);
  server = steps(35);
  const second = await store.steps(trial(35));
  assert.deepEqual(second.number, Array.from({ length: 35 }, (_, i) => i + 1));
  assert.equal(first.number.length, 30, "a snapshot never changes");
  assert.deepEqual(asked.map(({ query }) => query.after), ["0", "30"]);
});

test("a new attempt reads all steps, because some may be withdrawn", async () => {
  server = steps(30);
  await store.steps(trial(30));
  server = steps(12);
  assert.equal((await store.steps(trial(12, 2))).number.at(-1), 12);
  assert.deepEqual(asked.map(({ query }) => query.after), ["0", "0"]);
});

test("a trial that is watched for long keeps a bounded number of steps, with the first and the last", async () => {
  let kept;
  for (let step = 500; step <= 30_000; step += 500) {
    server = steps(step);
    kept = await store.steps(trial(step));
    assert.ok(kept.number.length <= 3 * POINTS);
  }
  assert.equal(kept.number[0], 1);
  assert.equal(kept.number.at(-1), 30_000);
});

test("after an error the next call reads again", async () => {
  server = () => new Response("busy", { status: 503 });
  await assert.rejects(store.steps(trial(3)), /503/);
  server = steps(3);
  assert.equal((await store.steps(trial(3))).number.length, 3);
});

test("an answer that is no JSON is an outage, whatever its status says", async () => {
  server = () => new Response("<h1>Welcome to our hotel</h1>", { headers: { "Content-Type": "text/html" } });
  await assert.rejects(store.trial("t"), { name: "Error", message: /in its place/ });
});

test("an answer that has not changed is the same object", async () => {
  server = (url, { headers }) => (headers["If-None-Match"] ? new Response(null, { status: 304 }) : json({ id: "t" }, { ETag: '"1"' }));
  const first = await store.trial("t");
  assert.equal(await store.trial("t"), first);
});

test("while steps come in quickly, long answers are read every ten seconds", async () => {
  server = () => json({ items: [] });
  await store.of(trial(1), "/courses");
  await store.of(trial(2), "/courses");
  assert.equal(asked.length, 1);
  await store.of({ ...trial(3), state: "complete" }, "/courses");
  assert.equal(asked.length, 2);
  await store.of({ ...trial(3), state: "complete" }, "/courses", { limit: 500 });
  assert.equal(asked.length, 3);
});

test("the last value of a column skips steps without one", () => {
  assert.equal(last([1, 2, null]), 2);
  assert.equal(last([null]), null);
});
