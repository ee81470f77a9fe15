import assert from "node:assert/strict";
import { test } from "node:test";

import { ago, clock, count, duration, inline, percent, plural, short, signed } from "../../server/nestor_server/dashboard/format.js";

/** Each function with inputs and what they become. */
const CASES = [
  [short, [[0, "0"], [0.123456, "0.1235"], [-6.15349, "−6.153"], [1234, "1,234"], [123456.7, "123500"], [1e7, "1.00e7"], [-3e-7, "−3.00e-7"]]],
  [short, [[null, "–"], [undefined, "–"], [NaN, "–"], [Infinity, "∞"], [-Infinity, "−∞"], ["Infinity", "Infinity"]]],
  [signed, [[0.5, "+0.5"], [-0.5, "−0.5"], [0, "0"], [null, "–"]]],
  [percent, [[0, "0 %"], [1, "100 %"], [0.004, "< 1 %"], [0.999, "> 99 %"], [0.5, "50 %"], [null, "–"]]],
  [duration, [[0.123, "0.12 s"], [9.96, "10 s"], [59, "59 s"], [60, "1 min"], [200, "3 min 20 s"], [7_320, "2 h 2 min"], [180_000, "2 d 2 h"], [null, "–"]]],
  [count, [[1011010, "1,011,010"]]],
];

for (const [format, pairs] of CASES) {
  for (const [value, text] of pairs) test(`${format.name}(${value}) is ${text}`, () => assert.equal(format(value), text));
}

test("a word has a plural, except for one", () => {
  assert.equal(plural(1, "step"), "1 step");
  assert.equal(plural(1_200, "entry", "entries"), "1,200 entries");
});

test("an age has one unit", () => {
  const now = Date.parse("2026-01-02T03:04:05Z");
  assert.equal(ago("2026-01-02T03:04:04Z", now), "now");
  assert.equal(ago("2026-01-02T03:03:05Z", now), "1 min ago");
  assert.equal(ago("2025-12-30T03:04:05Z", now), "3 d ago");
  assert.equal(ago(null, now), "–");
});

test("a time of another day has its date", () => {
  const now = new Date(2026, 0, 2, 15, 4, 5);
  assert.equal(clock(now.getTime(), now.getTime()), "15:04:05");
  assert.equal(clock(new Date(2026, 0, 1, 15, 4, 5).getTime(), now.getTime()), "2026-01-01 15:04:05");
});

test("values of any kind fit into a line", () => {
  assert.equal(inline("text"), "text");
  assert.equal(inline(0.123456), "0.1235");
  assert.equal(inline({ kind: "adam", lr: 0.1 }), '{"kind":"adam","lr":0.1}');
});
