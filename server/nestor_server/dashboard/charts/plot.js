/** A plot over steps: the axes, the colors of the theme, its size, zoom, and the cursor that all plots of a page share. */

import { short } from "../format.js";

/**
 * @typedef {import("../cursor.js").Cursor} Cursor
 * @typedef {import("./scales.js").Values} Values
 * @typedef {{values: Values, color: string, width?: number, alpha?: number, dash?: boolean, dots?: boolean}} Line `color`
 * is a CSS variable
 * @typedef {{upper: number, lower: number, color: string, alpha: number}} Band between two lines, by their indices
 * @typedef {object} PlotOptions
 * @property {string} label for screen readers
 * @property {number} height
 * @property {boolean} [numbered] whether the steps have numbers below the plot
 * @property {number} [gutter] the least width on the right, so that plots in a column are aligned
 * @typedef {object} Picture
 * @property {readonly number[]} steps
 * @property {Line[]} lines of values at these steps; later ones are drawn over earlier ones
 * @property {Band[]} [bands]
 * @property {(from: number, until: number) => [number, number]} range of the values, while steps in a range are shown
 * @property {boolean} [log]
 * @property {{value: number, label: string, color?: string}[]} [limits] horizontal lines with a label on the right
 * @property {boolean} [marked] leave room for marks above the plot
 * @property {(plot: uPlot) => void} [under] paints between the grid and the lines
 * @property {(plot: uPlot) => void} [over] paints above the lines, without a clip
 */

const Library = /** @type {typeof import("../vendor/uplot/uPlot.d.ts")} */ (/** @type {any} */ (globalThis).uPlot);
const LETTERS = "12px system-ui, sans-serif";
const WHOLE = [1, 2, 5].flatMap((digit, _, digits) => Array.from({ length: 10 }, (_, i) => digit * 10 ** i)).sort((a, b) => a - b);
const APART = 12; // pixels between values that are drawn as dots, too

const dark = globalThis.matchMedia?.("(prefers-color-scheme: dark)");
/** @type {Map<string, string>} */
const palette = new Map();
dark?.addEventListener("change", () => palette.clear());

/** What a color of the theme is now: a canvas knows no variables. @param {HTMLElement} element of the page @param {string} name */
export function colorOf(element, name) {
  const known = palette.get(name);
  if (known) return known;
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  element.append(probe);
  const color = getComputedStyle(probe).color;
  probe.remove();
  palette.set(name, color);
  return color;
}

/** @param {string} color @param {number} alpha */
function faded(color, alpha) {
  return `color-mix(in srgb, ${color} ${alpha * 100}%, transparent)`;
}

/** The font of texts in a plot, in its own pixels. @param {uPlot} plot */
export function letters(plot) {
  return LETTERS.replace(/^\d+/, (size) => String(Number(size) * ratio(plot)));
}

/** Pixels of the canvas for one of CSS. @param {uPlot} plot */
export function ratio(plot) {
  return plot.ctx.canvas.width / plot.width;
}

export class Plot {
  element = document.createElement("div");
  #cursor;
  #height;
  #numbered;
  #gutter;
  #picture = /** @type {Picture | null} */ (null);
  #plot = /** @type {uPlot | null} */ (null);
  #form = ""; // what cannot change without another uPlot
  #window = /** @type {[number, number]} */ ([0, 1]);
  #zoomed = false;
  #inside = false; // the pointer is
  #resized = new ResizeObserver(() => this.#fit());
  #redraw = () => this.#plot?.redraw(false, true);
  #unfollow;

  /** @param {Cursor} cursor @param {PlotOptions} options */
  constructor(cursor, { label, height, numbered = true, gutter = 14 }) {
    this.#cursor = cursor;
    this.#numbered = numbered;
    this.#gutter = gutter;
    this.#height = height;
    this.element.className = "plot";
    this.element.tabIndex = 0;
    this.element.setAttribute("role", "img");
    this.element.setAttribute("aria-label", label);
    this.element.style.minHeight = `${height}px`;
    this.element.addEventListener("keydown", (event) => this.#step(event));
    this.#resized.observe(this.element);
    dark?.addEventListener("change", this.#redraw);
    this.#unfollow = cursor.follow(() => this.#follow());
  }

  /** @param {Picture} picture */
  draw(picture) {
    this.#picture = picture;
    const { lines, bands, limits, log, marked } = picture;
    const form = JSON.stringify([lines.map(({ values, ...style }) => style), bands, limits, log, marked]);
    if (this.#plot && form === this.#form && picture.steps.length) {
      this.#plot.setData(data(picture), false);
      const full = /** @type {[number, number]} */ ([picture.steps[0], picture.steps[picture.steps.length - 1]]);
      const [min, max] = this.#zoomed ? this.#window : full;
      return this.#plot.setScale("x", { min, max }); // and with it the range of the values
    }
    this.#form = form;
    this.#plot?.destroy();
    this.#plot = null;
    this.#zoomed = this.#inside = false;
    this.#fit();
  }

  destroy() {
    this.#resized.disconnect();
    dark?.removeEventListener("change", this.#redraw);
    this.#unfollow();
    this.#plot?.destroy();
  }

  #fit() {
    const width = this.element.clientWidth;
    if (!width || !this.#picture?.steps.length) return;
    if (this.#plot) return void (this.#plot.width !== width && this.#plot.setSize({ width, height: this.#height }));
    this.#plot = new Library(this.#options(this.#picture, width), data(this.#picture), this.element);
    this.#plot.over.addEventListener("mouseenter", () => (this.#inside = true));
    this.#plot.over.addEventListener("mouseleave", () => {
      this.#inside = false;
      this.#cursor.set(null);
    });
    this.#plot.over.addEventListener("dblclick", () => (this.#zoomed = false));
  }

  /** Show the cursor of the page, which another plot may have moved. */
  #follow() {
    if (!this.#plot || this.#inside) return;
    const { step } = this.#cursor;
    const left = step === null ? -10 : this.#plot.valToPos(step, "x");
    this.#plot.setCursor({ left: left > this.#plot.over.clientWidth ? -10 : left, top: 0 }, false);
  }

  /** Move the cursor by keys. @param {KeyboardEvent} event */
  #step(event) {
    const plot = this.#plot, by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") this.#cursor.set(null);
    if (!plot || !by) return;
    event.preventDefault();
    const { step } = this.#cursor, steps = plot.data[0], end = steps.length - 1;
    const index = step === null ? end : plot.valToIdx(step) + by * (event.shiftKey ? 10 : 1);
    this.#cursor.set(steps[Math.max(0, Math.min(end, index))]);
  }

  /** @param {Picture} picture @param {number} width @returns {import("../vendor/uplot/uPlot.d.ts").Options} */
  #options({ lines, bands = [], limits = [], log, marked }, width) {
    const color = (/** @type {string} */ name) => () => colorOf(this.element, name);
    const axis = {
      font: LETTERS, stroke: color("--faint"), ticks: { show: false }, gap: 6,
      grid: { stroke: color("--line"), width: 1 },
    };
    const gutter = Math.max(this.#gutter, ...limits.map(({ label }) => textWidth(label) + 10));
    return {
      width,
      height: this.#height,
      padding: [marked ? 14 : 8, gutter, 0, 0],
      legend: { show: false },
      scales: {
        x: {
          time: false,
          range: (_, min, max) => {
            this.#window = min === max ? [min - 1, max + 1] : [min, max];
            this.element.dataset.window = this.#window.map(Math.round).join(" "); // for tests: a canvas cannot be asked
            return this.#window;
          },
        },
        y: { distr: log ? 3 : 1, range: () => this.#picture?.range(...this.#window) ?? [0, 1] },
      },
      axes: [
        { ...axis, size: this.#numbered ? 24 : 6, space: 64, incrs: WHOLE, values: (_, splits) => splits.map((step) => (this.#numbered ? short(step) : "")) },
        {
          ...axis, space: Math.min(34, this.#height / 3), size: (_, values) => Math.max(46, ...(values ?? []).map((text) => textWidth(String(text ?? "")) + 10)),
          values: (_, splits) => splits.map(tick),
        },
      ],
      series: [{}, ...lines.map((line) => series(line, color(line.color)))],
      bands: bands.map(({ upper, lower, color: name, alpha }) => ({
        series: [upper + 1, lower + 1], fill: () => faded(colorOf(this.element, name), alpha),
      })),
      cursor: {
        y: false,
        points: { size: 7, width: 0, fill: (plot, i) => String(plot.series[i].stroke instanceof Function ? plot.series[i].stroke(plot, i) : "") },
        drag: { x: true, y: false, dist: 6 },
        move: (plot, left, top) => [left < 0 ? left : plot.valToPos(plot.data[0][plot.posToIdx(left)], "x"), top],
      },
      hooks: {
        setSelect: [(plot) => (this.#zoomed ||= plot.select.width > 0)],
        setCursor: [(plot) => this.#inside && this.#cursor.set(plot.cursor.idx == null ? null : plot.data[0][plot.cursor.idx])],
        drawAxes: [(plot) => clipped(plot, () => this.#picture?.under?.(plot))],
        draw: [(plot) => this.#paintOver(plot), () => this.#follow()], // the same step may be elsewhere now
      },
    };
  }

  /** @param {uPlot} plot */
  #paintOver(plot) {
    const { ctx, bbox } = plot, px = ratio(plot);
    ctx.save();
    ctx.font = letters(plot);
    ctx.textBaseline = "middle";
    ctx.textAlign = "left";
    for (const { value, label, color = "--limit" } of this.#picture?.limits ?? []) {
      const y = Math.round(plot.valToPos(value, "y", true));
      if (!(y >= bbox.top - 1 && y <= bbox.top + bbox.height + 1)) continue;
      ctx.strokeStyle = ctx.fillStyle = colorOf(this.element, color);
      ctx.lineWidth = px;
      ctx.setLineDash([4 * px, 3 * px]);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      ctx.fillText(label, bbox.left + bbox.width + 5 * px, y);
    }
    ctx.setLineDash([]);
    this.#picture?.over?.(plot);
    ctx.restore();
  }
}

/** A number without digits that say nothing. @param {number | null} value */
function tick(value) {
  return value === null ? "" : short(value).replace(/\.?0+e/, "e");
}

/** @param {Picture} picture @returns {import("../vendor/uplot/uPlot.d.ts").AlignedData} */
function data({ steps, lines }) {
  return /** @type {any} */ ([steps, ...lines.map(({ values }) => values)]);
}

/** @param {Line} line @param {() => string} color @returns {import("../vendor/uplot/uPlot.d.ts").Series} */
function series({ values, width = 1.5, alpha = 1, dash, dots = true }, color) {
  return {
    stroke: color, width, alpha, spanGaps: true,
    ...(dash && { dash: [6, 4] }),
    points: {
      size: width + 3, width: 0, fill: color,
      show: (plot, i) => dots && isSparse(plot, plot.data[i]),
    },
  };
}

/** Whether each value of a line deserves a dot. @param {uPlot} plot @param {ArrayLike<unknown>} values */
function isSparse(plot, values) {
  const known = Array.from(values).filter((value) => value !== null).length;
  return known === 1 || (known <= values.length / 2 && known * APART <= plot.bbox.width / ratio(plot));
}

/** @param {uPlot} plot @param {() => void} paint */
function clipped({ ctx, bbox }, paint) {
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  paint();
  ctx.restore();
}

const ruler = globalThis.document?.createElement("canvas").getContext("2d");

/** In pixels of CSS. @param {string} text */
function textWidth(text) {
  if (!ruler) return 0;
  ruler.font = LETTERS;
  return ruler.measureText(text).width;
}
