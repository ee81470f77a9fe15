/** Quantiles over steps: the range, the middle nine tenths and the middle half as bands, and the median as a line. */

export const QUANTILES = ["min", "5 %", "25 %", "median", "75 %", "95 %", "max"];

/** The bands between them, and what the legend has, as `LineChart` takes them. */
export const BANDS = [
  { upper: "max", lower: "min", alpha: 0.1 },
  { upper: "95 %", lower: "5 %", alpha: 0.18 },
  { upper: "75 %", lower: "25 %", alpha: 0.3 },
];
const COLOR = "--validation";
export const KEYS = [
  { name: "median", color: COLOR, width: 2, of: ["median"] },
  { name: "25–75 %", color: COLOR, width: 8, alpha: 0.58, of: ["25 %", "75 %"] },
  { name: "5–95 %", color: COLOR, width: 8, alpha: 0.28, of: ["5 %", "95 %"] },
  { name: "all", color: COLOR, width: 8, alpha: 0.1, of: ["min", "max"] },
];

/**
 * @param {readonly (readonly number[])[]} quantiles of each step @param {(value: number) => number} map to what is shown; it
 * increases @returns {import("./line.js").Curve[]}
 */
export function quantileCurves(quantiles, map) {
  return QUANTILES.map((name, which) => ({
    name, color: COLOR, width: name === "median" ? 2 : 0, values: quantiles.map((one) => map(one[which])),
  }));
}
