import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { forget } from "../../server/nestor_server/dashboard/api.js";
import { assignment, change, Changed } from "../../server/nestor_server/dashboard/lists/changes.js";

/** @typedef {import("../../server/nestor_server/dashboard/store.js").Study} Study */

/** A server with one study. `before` runs before each PATCH. */
const server = {
  study: /** @type {any} */ ({}),
  version: 0,
  patches: 0,
  before: () => {},
  /** @param {string} path @param {any} options */
  answer(path, { method = "GET", headers, body }) {
    assert.equal(path, "api/v1/studies/s");
    const json = (/** @type {number} */ status, /** @type {object} */ content) =>
      new Response(JSON.stringify(content), { status, headers: { ETag: `"${this.version}"` } });
    if (method === "GET") return json(200, this.study);
    this.patches++;
    this.before();
    if (headers["If-Match"] !== `"${this.version}"`) return json(412, { detail: "changed" });
    this.set(JSON.parse(body));
    return json(200, this.study);
  },
  /** @param {object} fields */
  set(fields) {
    this.study = { ...this.study, ...fields };
    this.version++;
  },
};

/** @returns {Study} */
const seen = () => structuredClone(server.study);

beforeEach(() => {
  forget();
  Object.assign(server, { study: { id: "s", note: "a", tags: [], user_attrs: {}, best_value: 1 }, version: 1, patches: 0, before: () => {} });
  globalThis.fetch = async (path, options) => server.answer(String(path), options);
});

test("a field is changed", async () => {
  assert.equal((await change(seen(), "note", { note: "b" })).note, "b");
  assert.equal(server.study.note, "b");
});

test("what someone else has written meanwhile stays, and an error says so", async () => {
  const before = seen();
  server.set({ note: "theirs" });
  await assert.rejects(change(before, "note", { note: "mine" }), (error) => error instanceof Changed && error.study.note === "theirs");
  assert.deepEqual([server.study.note, server.patches], ["theirs", 0]);
});

test("it stays also if it comes between the read and the change", async () => {
  server.before = () => server.patches === 1 && server.set({ note: "theirs" });
  await assert.rejects(change(seen(), "note", { note: "mine" }), Changed);
  assert.equal(server.study.note, "theirs");
});

test("a step that a trial has recorded meanwhile is no conflict", async () => {
  server.before = () => server.patches < 4 && server.set({ best_value: Math.random() });
  await change(seen(), "note", { note: "mine" });
  assert.equal(server.study.note, "mine");
});

test("it does not try forever", async () => {
  server.before = () => server.set({ best_value: Math.random() });
  await assert.rejects(change(seen(), "tags", { tags: ["x"] }), /changed/);
  assert.equal(server.patches, 5);
});

test("an attribute is JSON, or a text", () => {
  assert.deepEqual(assignment("lr = 0.1"), { lr: 0.1 });
  assert.deepEqual(assignment('budget={"hours": 3}'), { budget: { hours: 3 } });
  assert.deepEqual(assignment("owner = ada = b"), { owner: "ada = b" });
  assert.deepEqual(assignment("empty ="), { empty: "" });
});
