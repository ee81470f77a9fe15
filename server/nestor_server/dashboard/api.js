/** The public REST interface, as a browser calls it: with the session's cookie, and with the ETags of what it has. */

const API = "api/v1";

/** The server refused; `problem` is its problem document. */
export class Refused extends Error {
  /** @param {number} status @param {{detail?: string, code?: string}} problem */
  constructor(status, problem) {
    super(problem.detail ?? `The server answered ${status}.`);
    this.status = status;
    this.code = problem.code;
  }
}

/** The server did not answer, or a part that it needs did not. */
export class Unavailable extends Error {}

/** @type {Map<string, {etag: string, body: any}>} */
const known = new Map();
const KNOWN_AT_MOST = 50; // answers

/**
 * Read `path`; `fresh` is false when nothing changed since it was last read.
 * @param {string} path
 * @returns {Promise<{body: any, fresh: boolean}>}
 */
export async function get(path) {
  const before = known.get(path);
  const response = await call(path, { headers: before ? { "If-None-Match": before.etag } : {} });
  if (response.status === 304 && before) return { body: before.body, fresh: false };
  const body = await response.json();
  const etag = response.headers.get("ETag");
  known.delete(path);
  if (etag) known.set(path, { etag, body });
  for (const oldest of [...known.keys()].slice(0, -KNOWN_AT_MOST)) known.delete(oldest);
  return { body, fresh: true };
}

/** @param {string} method @param {string} path @param {object} [content] */
export async function send(method, path, content) {
  const headers = { "X-Nestor-Request": "1", ...(content && { "Content-Type": "application/json" }) };
  const response = await call(path, { method, headers, body: content && JSON.stringify(content) });
  return response.status === 204 ? null : response.json();
}

/** @param {string} path @param {RequestInit} options */
async function call(path, options) {
  let response;
  try {
    // no-store: the ETags above are the only cache, so that `fresh` means what it says.
    response = await fetch(`${API}${path}`, { ...options, cache: "no-store", signal: AbortSignal.timeout(15_000) });
  } catch {
    throw new Unavailable("The server does not answer.");
  }
  if (response.ok || response.status === 304) return response;
  const problem = await response.json().catch(() => ({}));
  if (response.status >= 500) throw new Unavailable(problem.detail ?? "The server does not answer.");
  throw new Refused(response.status, problem);
}
