/** The step under the pointer, which all charts of a page show together. */

export class Cursor {
  step = /** @type {number | null} */ (null);
  /** @type {Set<(step: number | null) => void>} */
  #followers = new Set();

  /** @param {number | null} step */
  set(step) {
    if (step === this.step) return;
    this.step = step;
    for (const follow of this.#followers) follow(step);
  }

  /** Call `follow` with each new step, until the function that is returned is called. @param {(step: number | null) => void} follow */
  follow(follow) {
    this.#followers.add(follow);
    return () => void this.#followers.delete(follow);
  }
}
