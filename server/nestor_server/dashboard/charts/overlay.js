/** Curves of several trials over their steps, in one frame, as SVG that is as wide as its place. */

import { short } from "../format.js";
import { html, nothing, render, svg } from "../vendor/lit-html/lit-html.js";
import { axisRange, extent, robustExtent } from "./scales.js";
import { scale, ticks } from "./ticks.js";

/**
 * @typedef {{key: string, kind: string, steps: readonly number[], values: readonly (number | null)[]}} Curve `kind`: classes that style it
 * @typedef {{key: string, step: number, value: number}} Point of a curve
 * @typedef {{domain: readonly [number, number], range: readonly [number, number], x: (step: number) => number, y: (value: number) => number}} Frame
 */

const LEFT = 52, RIGHT = 12, TOP = 8, BOTTOM = 22; // pixels around the curves
const NEAR = 40; // pixels from which the pointer finds a curve

export class Overlay {
  #element;
  #label;
  #found;
  #observer;
  #size = { width: 0, height: 0 };
  #frame = /** @type {Frame | null} */ (null);
  #curves = /** @type {readonly Curve[]} */ ([]);
  #bold = /** @type {string | null} */ (null);
  #point = /** @type {Point | null} */ (null);

  /**
   * @param {HTMLElement} element whose size the chart takes @param {string} label what it shows, for screen readers
   * @param {(point: Point | null) => void} found gets the point next to the pointer
   */
  constructor(element, label, found = () => {}) {
    this.#element = element;
    this.#label = label;
    this.#found = found;
    this.#observer = new ResizeObserver(([{ contentRect }]) => {
      this.#size = { width: contentRect.width, height: contentRect.height };
      this.#fit();
    });
    this.#observer.observe(element);
    element.addEventListener("pointermove", (event) => this.#look(event));
    element.addEventListener("pointerleave", () => this.#see(null));
  }

  /** Draw these, the last one on top. @param {readonly Curve[]} curves */
  show(curves) {
    this.#curves = curves.filter(({ values }) => values.some((value) => value !== null));
    this.#fit();
  }

  /** Make one stand out, or none. @param {string | null} key */
  embolden(key) {
    if (key === this.#bold) return;
    this.#bold = key;
    this.#draw();
  }

  destroy() {
    this.#observer.disconnect();
  }

  #fit() {
    const { width, height } = this.#size;
    const steps = extent(this.#curves.flatMap((curve) => [curve.steps[0], curve.steps[curve.steps.length - 1]])) ?? [0, 1];
    const domain = steps[0] < steps[1] ? steps : axisRange([steps]);
    const firsts = this.#curves.map((curve) => curve.values.find((value) => value !== null)); // where training starts is no outlier
    const range = axisRange([robustExtent(this.#curves.flatMap((curve) => curve.values)), robustExtent(firsts)]);
    const isEmpty = !width || !height || !this.#curves.length;
    this.#frame = isEmpty ? null : { domain, range, x: scale(domain, LEFT, width - RIGHT), y: scale(range, height - BOTTOM, TOP) };
    this.#draw();
  }

  #draw() {
    const { width, height } = this.#size;
    if (!this.#frame) return render(nothing, this.#element);
    const { domain, range, x, y } = this.#frame;
    const bottom = height - BOTTOM;
    const point = this.#point;
    const bold = point?.key ?? this.#bold;
    const last = this.#curves.findIndex(({ key }) => key === bold);
    const curves = last < 0 ? this.#curves : [...this.#curves.filter((_, i) => i !== last), this.#curves[last]];
    render(
      html`<svg class="overlay" viewBox="0 0 ${width} ${height}" role="img" aria-label=${this.#label}>
        <clipPath id="frame"><rect x=${LEFT} y=${TOP - 2} width=${Math.max(0, width - LEFT - RIGHT + 2)} height=${bottom - TOP + 4}></rect></clipPath>
        ${ticks(...range, height / 50).map((value) => svg`<line class="grid" x1=${LEFT} x2=${width - RIGHT} y1=${y(value)} y2=${y(value)}></line>
          <text x=${LEFT - 8} y=${y(value) + 4} text-anchor="end">${short(value)}</text>`)}
        ${ticks(...domain, width / 110).map((step) => svg`<text x=${x(step)} y=${height - 6} text-anchor="middle">${short(step)}</text>`)}
        <line class="axis" x1=${LEFT} x2=${width - RIGHT} y1=${bottom} y2=${bottom}></line>
        <g clip-path="url(#frame)">
          ${curves.map((curve) => svg`<polyline class="curve ${curve.kind} ${curve.key === bold ? "bold" : ""}" points=${points(curve, x, y)}></polyline>`)}
          ${point ? svg`<line class="at" x1=${x(point.step)} x2=${x(point.step)} y1=${TOP} y2=${bottom}></line>
            <circle class="point" cx=${x(point.step)} cy=${y(point.value)} r="3.5"></circle>` : nothing}
        </g>
      </svg>`,
      this.#element,
    );
  }

  /** @param {PointerEvent} event */
  #look(event) {
    if (!this.#frame) return;
    const box = this.#element.getBoundingClientRect();
    const { x, y } = this.#frame;
    const [left, top] = [event.clientX - box.left, event.clientY - box.top];
    let nearest = null, least = NEAR;
    for (const { key, steps, values } of this.#curves) {
      for (let i = 0; i < steps.length; i++) {
        const value = values[i];
        if (value === null) continue;
        const distance = Math.hypot(x(steps[i]) - left, y(value) - top);
        if (distance < least) [nearest, least] = [{ key, step: steps[i], value }, distance];
      }
    }
    this.#see(nearest);
  }

  /** @param {Point | null} point */
  #see(point) {
    if (point?.key === this.#point?.key && point?.step === this.#point?.step) return;
    this.#point = point;
    this.#draw();
    this.#found(point);
  }
}

/** @param {Curve} curve @param {(step: number) => number} x @param {(value: number) => number} y */
function points({ steps, values }, x, y) {
  const found = [];
  for (let i = 0; i < steps.length; i++) {
    const value = values[i];
    if (value !== null) found.push(`${x(steps[i]).toFixed(1)},${y(value).toFixed(1)}`);
  }
  return found.join(" ");
}
