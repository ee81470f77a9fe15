/** What charts compute before they draw. Run with `node --test`. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { gridOf } from "../../server/nestor_server/dashboard/charts/heat.js";
import * as scales from "../../server/nestor_server/dashboard/charts/scales.js";

const count = (/** @type {number} */ n) => Array.from({ length: n }, (_, i) => i);

test("one outlier does not stretch the axis", () => {
  const curve = count(1000).map((i) => 2 + Math.sin(i / 50));
  curve[500] = 400;
  const [low, high] = scales.robustExtent(curve) ?? [];
  assert.equal(low, Math.min(...curve));
  assert.ok(Number(high) >= 3 && Number(high) < 10);
});

test("a curve without outliers is shown whole", () => {
  for (const curve of [count(300).map((i) => 2 * Math.exp(-i / 60)), count(50), [1, 1, 1, 1, 1, 1, 1, 1, 5], [3]]) {
    assert.deepEqual(scales.robustExtent(curve), scales.extent(curve));
  }
});

test("few values are never outliers", () => {
  assert.deepEqual(scales.robustExtent([1, 2, 1, 2, 1, 400]), [1, 400]);
});

test("a logarithmic axis has positive values alone, and fences by ratios", () => {
  assert.deepEqual(scales.extent([-1, 0, 0.5, null, NaN, Infinity, 2], true), [0.5, 2]);
  const falling = count(100).map((i) => 10 ** (-i / 20));
  assert.deepEqual(scales.robustExtent(falling, true), scales.extent(falling));
  assert.deepEqual(scales.robustExtent([...falling, 1e30], true)?.[0], falling[99]);
  assert.ok(Number(scales.robustExtent([...falling, 1e30], true)?.[1]) < 1e20);
});

test("what is no number in JSON is not drawn", () => {
  assert.deepEqual(scales.finite([1, null, "NaN", "Infinity", NaN, -2]), [1, null, null, null, null, -2]);
});

test("short curves are hardly smoothed, long ones are", () => {
  assert.equal(scales.smoothing(40), 0);
  assert.ok(scales.smoothing(100) < scales.smoothing(300));
  assert.equal(scales.smoothing(1_000), scales.smoothing(100_000));
  assert.ok(scales.smoothing(100_000) < 1);
});

test("an axis is never empty", () => {
  for (const log of [false, true]) {
    for (const ranges of /** @type {([number, number] | null)[][]} */ ([[], [null], [[3, 3]], [[1, 2], [5, 6]]])) {
      const [low, high] = scales.axisRange(ranges, log);
      assert.ok(low < high);
      for (const range of ranges) if (range) assert.ok(low < range[0] && range[1] < high);
    }
  }
  assert.deepEqual(scales.axisRange([[0, 0]]), [-1, 1]);
});

test("a bound that is close to the values is shown, a far one is not", () => {
  assert.deepEqual(scales.withNear([-6, -4], [-20, 5]), [-6, -4]);
  assert.ok(scales.withNear([-6, -4], [-6.5])[0] < -6.5);
});

test("smoothing keeps a constant, calms noise, leaves gaps, and does not lag behind a slope", () => {
  assert.deepEqual(scales.smooth([2, 2, null, 2, NaN], 0.6), [2, 2, null, 2, null]);
  const noisy = count(500).map((i) => (i % 2 ? 1 : -1));
  assert.ok(scales.smooth(noisy, 0.6).every((value) => Math.abs(Number(value)) < 0.7));
  const slope = count(101);
  assert.ok(Math.abs(Number(scales.smooth(slope, 0.8)[50]) - 50) < 1e-6);
});

test("a gap begins to widen where the upper curve leaves the lower one", () => {
  const steps = count(200).map((i) => i + 1);
  const lower = steps.map((step) => Math.exp(-step / 40));
  const upper = steps.map((step, i) => (step % 10 ? null : lower[i] + Math.max(0, step - 100) / 100));
  const start = Number(scales.gapStart(steps, upper, lower));
  assert.ok(start >= 90 && start <= 120, String(start));
});

test("a gap that is constant, closes, or stays below 0 does not widen", () => {
  const steps = count(100), lower = steps.map((step) => 1 / (1 + step));
  for (const gap of [() => 0.3, (/** @type {number} */ step) => 1 - step / 100, (/** @type {number} */ step) => -1 + step / 200]) {
    assert.equal(scales.gapStart(steps, steps.map((step) => lower[step] + gap(step)), lower), null);
  }
  assert.equal(scales.gapStart(steps, steps.map(() => null), lower), null);
  assert.equal(scales.gapStart([1, 2], [3, 9], [1, 1]), null);
});

test("thinning keeps the ends and every extreme", () => {
  const steps = count(100_000), curve = steps.map((step) => Math.sin(step / 1000)), sparse = steps.map((step) => (step % 25_000 ? null : step));
  curve[54_321] = 99;
  const kept = scales.thinned(steps, [curve, sparse], 2_000);
  assert.ok(kept.length <= 2_000);
  for (const i of [0, 25_000, 50_000, 54_321, 75_000, 99_999]) assert.ok(kept.includes(i), String(i));
  assert.deepEqual(kept, [...new Set(kept)].sort((a, b) => a - b));
  assert.deepEqual(scales.thinned([1, 2, 3], [[1, 2, 3]], 2_000), [0, 1, 2]);
});

test("curves with steps of their own share an axis", () => {
  assert.deepEqual(scales.joined([{ steps: [1, 3], values: [10, 30] }, { steps: [2, 3], values: [7, null] }]), {
    steps: [1, 2, 3], columns: [[10, null, 30], [null, 7, null]],
  });
});

test("the value at a step is the newest one until then", () => {
  assert.equal(scales.newestAt([1, 2, 3], [5, null, 7], 2), 0);
  assert.equal(scales.newestAt([1, 2, 3], [5, null, null], null), 0);
  assert.equal(scales.newestAt([2, 3], [5, 6], 1), -1);
});

test("all transforms increase", () => {
  for (const transform of Object.values(scales.TRANSFORMS)) {
    for (let x = -30; x < 30; x++) assert.ok(transform(x) < transform(x + 1));
  }
});

test("histograms with different bins share one axis and lose no entry", () => {
  const found = { number: [0, 1, 2], quantiles: [], first: [-1, -4, -16], width: [2, 0.5, 0.125], counts: [[10, 30], [5, 5, 10, 0, 20], [1, 0, 0, 7]] };
  for (const map of Object.values(scales.TRANSFORMS)) {
    const { edges, shares, full } = gridOf(found, map, [map(-4) - 0.1, map(4) + 0.1]);
    assert.equal(edges.length, shares[0].length + 1);
    for (const column of shares) assert.ok(Math.abs(column.reduce((sum, share) => sum + share, 0) - 1) < 1e-9);
    assert.ok(full > 0);
  }
});

test("entries that are all equal are one row", () => {
  const { shares } = gridOf({ number: [0], quantiles: [], first: [-6 * 2 ** 20], width: [2 ** -20], counts: [[100]] }, (value) => value, [-6.6, -5.4]);
  assert.equal(shares[0].filter((share) => share > 0).length, 1);
});
