/** Which page an address shows: the part behind #, so that the server needs no routes of its own and Back works. */

/**
 * @typedef {"studies" | "study" | "trial" | "compare" | "workers" | "tokens"} PageName
 * @typedef {{page: PageName, id: string, query: Record<string, string>}} Route
 */

const ID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}";
/** @type {[RegExp, PageName][]} */
const PATTERNS = [
  [/^\/?$/, "studies"],
  [/^\/workers$/, "workers"],
  [/^\/tokens$/, "tokens"],
  [new RegExp(`^/studies/(${ID})$`), "study"],
  [new RegExp(`^/studies/(${ID})/compare$`), "compare"],
  [new RegExp(`^/trials/(${ID})$`), "trial"],
];
const PATHS = {
  studies: () => "/",
  workers: () => "/workers",
  tokens: () => "/tokens",
  study: (/** @type {string} */ id) => `/studies/${id}`,
  compare: (/** @type {string} */ id) => `/studies/${id}/compare`,
  trial: (/** @type {string} */ id) => `/trials/${id}`,
};

/** The route of a fragment such as "#/trials/…?tensor=l2"; null if there is no such page. @param {string} fragment @returns {Route | null} */
export function parse(fragment) {
  const text = fragment.replace(/^#/, "");
  if (text.includes("=") && !text.startsWith("/")) return parseEarlier(new URLSearchParams(text));
  const [path, search] = splitOnce(text, "?");
  const query = Object.fromEntries(new URLSearchParams(search));
  for (const [pattern, page] of PATTERNS) {
    const match = pattern.exec(path);
    if (match) return { page, id: match[1] ?? "", query };
  }
  return null;
}

/** Links of earlier versions: "#study=…&trial=…". @param {URLSearchParams} fields @returns {Route | null} */
function parseEarlier(fields) {
  const [study, trial] = [fields.get("study"), fields.get("trial")];
  if (trial) return parse(`#/trials/${trial}`);
  return study ? parse(`#/studies/${study}`) : null;
}

/**
 * The link to a page. Fields of the query that are empty are left out.
 * @param {PageName} page @param {string} [id] @param {Record<string, string | null | undefined>} [query]
 */
export function link(page, id = "", query = {}) {
  const given = Object.entries(query).filter(([, value]) => value);
  const search = new URLSearchParams(/** @type {[string, string][]} */ (given)).toString();
  return `#${PATHS[page](id)}${search && `?${search}`}`;
}

/** Whether two routes show the same page of the same object, perhaps in another way. @param {Route | null} a @param {Route | null} b */
export function isSamePage(a, b) {
  return a?.page === b?.page && a?.id === b?.id;
}

/** @param {string} text @param {string} mark @returns {[string, string]} */
function splitOnce(text, mark) {
  const at = text.indexOf(mark);
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
}
