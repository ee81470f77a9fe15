/** The options in which trials differ, as columns with names that are as short as they can be. */

/** @typedef {Record<string, unknown>} Options values by dotted names, such as "inner.lr" */

/** What is no option, and programs, data sets and arguments, which are too large for a cell. */
const LEFT_OUT = new Set(["user_attrs", "tags", "priority", "problem.program", "problem.dataset", "problem.params"]);

const TAGS = ["kind", "optimizer"]; // options that decide which others there are

/** @type {WeakMap<object, Options>} */
const known = new WeakMap();

/** The options of a specification by dotted names. @param {object} spec @returns {Options} */
export function flat(spec) {
  let options = known.get(spec);
  if (!options) known.set(spec, (options = Object.fromEntries(leaves(spec, ""))));
  return options;
}

/** @param {object} part @param {string} prefix @returns {[string, unknown][]} */
function leaves(part, prefix) {
  return Object.entries(part).flatMap(([key, value]) => {
    const name = prefix + key;
    if (LEFT_OUT.has(name)) return [];
    return value !== null && typeof value === "object" && !Array.isArray(value) ? leaves(value, `${name}.`) : [[name, value]];
  });
}

/**
 * The names of the options that are not the same in all of these. What only follows from another one is left out: a trial
 * without a linear solver has no options of the solver.
 * @param {readonly Options[]} trials
 */
export function differing(trials) {
  const names = [...new Set(trials.flatMap((options) => Object.keys(options)))];
  const found = new Set(names.filter((name) => trials.some((options) => !isSame(options[name], trials[0][name]))));
  const follows = (/** @type {string} */ name) => {
    const having = trials.filter((options) => name in options);
    if (having.length === trials.length || having.some((options) => !isSame(options[name], having[0][name]))) return false;
    if (having[0][name] === null) return names.some((other) => other.startsWith(`${name}.`)); // others have more than null
    const parts = name.split(".");
    const above = parts.map((_, i) => parts.slice(0, i).join("."));
    if (trials.some((options) => above.some((part) => part in options))) return false; // null there, and more in others
    return above.some((part) => TAGS.some((tag) => `${part}.${tag}` !== name && found.has(`${part}.${tag}`)));
  };
  return [...found].filter((name) => !follows(name));
}
/** @param {unknown} a @param {unknown} b */
function isSame(a, b) {
  return a === b || (typeof a === "object" && typeof b === "object" && JSON.stringify(a) === JSON.stringify(b));
}

/** The shortest end of each name that tells it from the others. @param {readonly string[]} names @returns {Record<string, string>} */
export function shortNames(names) {
  return Object.fromEntries(
    names.map((name) => {
      const parts = name.split(".");
      const ends = parts.map((_, i) => parts.slice(i).join(".")).reverse();
      if (TAGS.includes(ends[0])) ends.shift(); // "kind" alone says nothing
      const isOwn = (/** @type {string} */ end) => names.every((other) => other === name || !(other === end || other.endsWith(`.${end}`)));
      return [name, ends.find(isOwn) ?? name];
    }),
  );
}
