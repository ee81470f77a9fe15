/** Reads things again and again: never in a hidden tab, less often while the server does not answer, and never no more. */

export const SHORT = 2_000, LONG = 10_000; // milliseconds between two reads: of what moves, and of what seldom changes
const MAX_PAUSE = 30_000;

/**
 * @typedef {{kind: "idle"} | {kind: "loading"} | {kind: "live", at: number} | {kind: "stale", since: number, why: string}} Status
 * @typedef {{stop: () => void, soon: () => void}} Watch
 * @typedef {object} Clock
 * @property {() => number} now
 * @property {(run: () => void, ms: number) => any} setTimer
 * @property {(timer: any) => void} clearTimer
 * @property {() => boolean} isHidden
 */

/**
 * `read` gets data; `show` displays it and returns the milliseconds until the next read. It is not called after `stop`.
 * @template T
 * @typedef {{read: () => Promise<T>, show: (data: T) => number}} Task
 */

/** @type {Clock} */
const BROWSER = {
  now: () => Date.now(),
  setTimer: (run, ms) => setTimeout(run, ms),
  clearTimer: (timer) => clearTimeout(timer),
  isHidden: () => document.hidden,
};

export class Scheduler {
  /** @type {Set<Loop>} */
  #loops = new Set();
  #clock;
  #changed;
  #failed;

  /**
   * @param {{changed?: () => void, failed?: (error: unknown) => boolean, clock?: Clock}} options `changed` is called if
   * the status may have changed. `failed` gets each error; true: it has dealt with it, and the loop ends.
   */
  constructor({ changed = () => {}, failed = () => false, clock = BROWSER } = {}) {
    this.#clock = clock;
    this.#changed = changed;
    this.#failed = failed;
  }

  /**
   * Read now, and again as `show` says.
   * @template T @param {Task<T>} task @returns {Watch}
   */
  watch(task) {
    const loop = new Loop(/** @type {Task<any>} */ (task), this.#clock, this.#changed, this.#failed);
    this.#loops.add(loop);
    loop.soon();
    return {
      stop: () => {
        loop.stop();
        this.#loops.delete(loop);
        this.#changed();
      },
      soon: () => loop.soon(),
    };
  }

  /** Read everything now: "try now", and the return to a tab. */
  soon() {
    for (const loop of this.#loops) loop.soon();
  }

  /** How old what is shown is, over all loops. @returns {Status} */
  get status() {
    const loops = [...this.#loops];
    const stale = loops.filter((loop) => loop.staleSince !== null);
    if (stale.length) {
      const oldest = stale.reduce((a, b) => (Number(a.staleSince) <= Number(b.staleSince) ? a : b));
      return { kind: "stale", since: Number(oldest.staleSince), why: oldest.why };
    }
    if (!loops.length) return { kind: "idle" };
    if (loops.some((loop) => loop.readAt === null)) return { kind: "loading" };
    return { kind: "live", at: Math.min(...loops.map((loop) => Number(loop.readAt))) };
  }
}

class Loop {
  readAt = /** @type {number | null} */ (null); // the last success
  staleSince = /** @type {number | null} */ (null);
  why = "";
  #task;
  #clock;
  #changed;
  #failed;
  #timer = /** @type {any} */ (null);
  #failures = 0;
  #reading = false;
  #again = false; // asked for during a read
  #stopped = false;

  /** @param {Task<any>} task @param {Clock} clock @param {() => void} changed @param {(error: unknown) => boolean} failed */
  constructor(task, clock, changed, failed) {
    this.#task = task;
    this.#clock = clock;
    this.#changed = changed;
    this.#failed = failed;
  }

  stop() {
    this.#stopped = true;
    this.#clock.clearTimer(this.#timer);
  }

  soon() {
    this.#again = this.#reading;
    if (!this.#reading) this.#arm(0);
  }

  /** @param {number} pause */
  #arm(pause) {
    this.#clock.clearTimer(this.#timer);
    if (!this.#stopped) this.#timer = this.#clock.setTimer(() => void this.#read(), pause);
  }

  async #read() {
    if (this.#stopped || this.#reading || this.#clock.isHidden()) return; // the return to the tab reads
    this.#reading = true;
    this.#again = false;
    let pause = SHORT;
    try {
      const data = await this.#task.read();
      if (this.#stopped) return;
      pause = this.#task.show(data);
      this.readAt = this.#clock.now();
      this.#failures = 0;
      this.staleSince = null;
    } catch (error) {
      if (this.#stopped) return;
      if (this.#failed(error)) return this.stop();
      this.staleSince ??= this.#clock.now();
      this.why = error instanceof Error ? error.message : String(error);
      pause = this.#pauseAfter(error);
    } finally {
      // Whatever happened, the next read is armed here, and nowhere else.
      this.#reading = false;
      this.#arm(this.#again ? 0 : pause);
      this.#changed();
    }
  }

  /** @param {unknown} error */
  #pauseAfter(error) {
    const asked = Number(/** @type {{retryAfter?: number}} */ (error)?.retryAfter ?? 0) * 1000;
    return Math.max(asked, Math.min(SHORT * 2 ** this.#failures++, MAX_PAUSE));
  }
}
