/** Which hyperparameter the panels show: the one in the address, or the one with the largest part in the hypergradient. */

/**
 * @typedef {import("../store.js").Schemas} Schemas
 * @typedef {Schemas["HyperparameterCourses"]} Courses
 * @typedef {Schemas["HyperparameterCourse"]} Course
 */

export const NAMED = 32; // entries of a hyperparameter that are lines with names, and nothing else
export const FEW = 25, MANY = 500; // rows of the table of hyperparameters: at first, and all that one answer has
const POINTS = 24; // of the small band in a row

/** @param {import("../app.js").App} app @param {import("../store.js").Trial} trial @param {number} [limit] @returns {Promise<Courses>} */
export function courses(app, trial, limit = FEW) {
  return app.store.of(trial, "/courses", { max_points: POINTS, limit });
}

/** The name of the hyperparameter that is shown in detail; "" if the trial has recorded none. @param {Courses} found @param {import("../route.js").Route} route */
export function chosen(found, route) {
  return route.query.tensor || (found.items[0]?.name ?? "");
}

/** The path of a hyperparameter below its trial. @param {string} name @param {string} [part] such as "summary" */
export function pathOf(name, part) {
  return `/hyperparameters/${encodeURIComponent(name)}${part ? `/${part}` : ""}`;
}
