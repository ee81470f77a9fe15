import assert from "node:assert/strict";
import { test } from "node:test";

import { differing, flat, shortNames } from "../../server/nestor_server/dashboard/lists/options_table.js";

const SPEC = {
  problem: { preset: { model: { hidden: [32] } } },
  n_steps: 300,
  inner: { optimizer: "adam", lr: 0.001, betas: [0.9, 0.999], schedule: null },
  outer: { optimizer: "adam", lr: 0.1 },
  response: { kind: "implicit", solver: { kind: "neumann", terms: 2 } },
  warm_start: null,
};

/** @param {object[]} specs */
const names = (...specs) => differing(specs.map(flat));

test("options have dotted names, and lists are values", () => {
  const options = flat(SPEC);
  assert.equal(options["response.solver.terms"], 2);
  assert.deepEqual(options["inner.betas"], [0.9, 0.999]);
  assert.deepEqual(options["problem.preset.model.hidden"], [32]);
  assert.equal(options.warm_start, null);
});

test("what is no option, and what is too large for a cell, is left out", () => {
  const spec = { ...SPEC, problem: { program: "a", dataset: "b" }, user_attrs: { owner: "ada" }, tags: ["x"], priority: 1 };
  assert.deepEqual(Object.keys(flat(spec)).filter((name) => /problem|user_attrs|tags|priority/.test(name)), []);
});

test("a specification is flattened once", () => assert.equal(flat(SPEC), flat(SPEC)));

test("only options that differ are named", () => {
  assert.deepEqual(names(SPEC), []);
  assert.deepEqual(names(SPEC, structuredClone(SPEC)), []); // equal lists are other objects
  assert.deepEqual(names(SPEC, { ...SPEC, n_steps: 400 }, SPEC), ["n_steps"]);
  assert.deepEqual(names(SPEC, { ...SPEC, inner: { ...SPEC.inner, betas: [0.5, 0.9] } }), ["inner.betas"]);
  assert.deepEqual(differing([]), []);
});

test("options that another one brings along are not named", () => {
  assert.deepEqual(names(SPEC, { ...SPEC, response: { kind: "frozen" } }), ["response.kind"]);
  const sgd = { ...SPEC, inner: { optimizer: "sgd", lr: 0.001, schedule: null } };
  assert.deepEqual(names(SPEC, sgd), ["inner.optimizer"]);
});

test("options that others of the same kind have with another value are named", () => {
  const more = { ...SPEC, response: { kind: "implicit", solver: { kind: "neumann", terms: 5 } } };
  assert.deepEqual(names(SPEC, more, { ...SPEC, response: { kind: "frozen" } }), ["response.kind", "response.solver.terms"]);
});

test("of what is null in others, the parts are named", () => {
  const warm = { ...SPEC, warm_start: { trial: "t", weights: true } };
  assert.deepEqual(names(SPEC, warm), ["warm_start.trial", "warm_start.weights"]);
  const scheduled = { ...SPEC, inner: { ...SPEC.inner, schedule: { kind: "cosine" } } };
  assert.deepEqual(names(SPEC, scheduled), ["inner.schedule.kind"]);
  const both = { ...SPEC, inner: { optimizer: "sgd", lr: 0.001, schedule: { kind: "cosine" } } };
  assert.deepEqual(names(SPEC, both), ["inner.optimizer", "inner.schedule.kind"]);
});

test("names are as short as they can be", () => {
  assert.deepEqual(shortNames(["inner.lr", "outer.lr", "n_steps"]), { "inner.lr": "inner.lr", "outer.lr": "outer.lr", n_steps: "n_steps" });
  assert.deepEqual(shortNames(["inner.lr", "response.solver.terms"]), { "inner.lr": "lr", "response.solver.terms": "terms" });
  assert.deepEqual(shortNames(["response.kind"]), { "response.kind": "response.kind" }); // "kind" alone says nothing
  assert.deepEqual(shortNames(["inner_steps", "steps"]), { inner_steps: "inner_steps", steps: "steps" });
  assert.deepEqual(shortNames(["a.x", "b.a.x"]), { "a.x": "a.x", "b.a.x": "b.a.x" });
});
