import assert from "node:assert/strict";
import { test } from "node:test";

import { scale, ticks } from "../../server/nestor_server/dashboard/charts/ticks.js";

test("ticks are round, and within the axis", () => {
  assert.deepEqual(ticks(0, 1, 5), [0, 0.2, 0.4, 0.6, 0.8, 1]);
  assert.deepEqual(ticks(0.03, 0.31, 3), [0.1, 0.2, 0.3]);
  assert.deepEqual(ticks(-7, 12, 4), [-5, 0, 5, 10]);
  assert.deepEqual(ticks(10, 300, 6), [50, 100, 150, 200, 250, 300]);
  assert.deepEqual(ticks(1e-9, 5e-9, 4), [1e-9, 2e-9, 3e-9, 4e-9, 5e-9]);
});

test("their number is near the one that is asked for, whatever the range", () => {
  for (const [low, high] of [[0, 1], [0.3, 0.31], [-1e6, 3e8], [999, 1001], [0, 1e-12]]) {
    for (const n of [2, 4, 8]) {
      const found = ticks(low, high, n);
      assert.ok(found.length <= n / 0.75 + 2 && found.length >= n / 2 - 1, `${low} ${high} ${n}: ${found}`);
      assert.ok(found.every((value) => value >= low - 1e-9 * (high - low) && value <= high + 1e-9 * (high - low)));
    }
  }
});

test("an axis without a range has one tick", () => {
  assert.deepEqual(ticks(3, 3, 4), [3]);
  assert.deepEqual(ticks(0, Infinity, 4), [0]);
});

test("a scale maps the ends of a range to its pixels, upside down if they are", () => {
  const y = scale([2, 4], 100, 0);
  assert.deepEqual([2, 3, 4].map(y), [100, 50, 0]);
});
