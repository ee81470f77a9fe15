/** A client of the REST interface that uses the session's cookie, and ETags for a cache of responses. */

const API = "api/v1";

/** The server rejected the request; `problem` is its problem document. */
export class RequestRejected extends Error {
  /** @param {number} status @param {{detail?: string, code?: string}} problem */
  constructor(status, problem) {
    super(problem.detail ?? `The server answered ${status}.`);
    this.status = status;
    this.code = problem.code;
  }
}

/** The server, or a part that it needs, did not answer. */
export class Unavailable extends Error {}

/** @type {Map<string, {etag: string, body: any}>} */
const cache = new Map();
const MAX_CACHED = 50; // responses

/**
 * Read `path`; `fresh` is false if it has not changed since the last read.
 * @param {string} path
 * @returns {Promise<{body: any, fresh: boolean}>}
 */
export async function get(path) {
  const cached = cache.get(path);
  const response = await call(path, { headers: cached ? { "If-None-Match": cached.etag } : {} });
  if (response.status === 304 && cached) return { body: cached.body, fresh: false };
  const body = await response.json();
  const etag = response.headers.get("ETag");
  cache.delete(path);
  if (etag) cache.set(path, { etag, body });
  for (const oldest of [...cache.keys()].slice(0, -MAX_CACHED)) cache.delete(oldest);
  return { body, fresh: true };
}

/**
 * Send a request that changes something; returns the response, or null if it has no content.
 * @param {string} method @param {string} path @param {object} [content]
 */
export async function send(method, path, content) {
  const headers = { "X-Nestor-Request": "1", ...(content && { "Content-Type": "application/json" }) };
  const response = await call(path, { method, headers, body: content && JSON.stringify(content) });
  return response.status === 204 ? null : response.json();
}

/** @param {string} path @param {RequestInit} options */
async function call(path, options) {
  let response;
  try {
    // no-store: the ETags above are the only cache, so that `fresh` is reliable.
    response = await fetch(`${API}${path}`, { ...options, cache: "no-store", signal: AbortSignal.timeout(15_000) });
  } catch {
    throw new Unavailable("The server does not answer.");
  }
  if (response.ok || response.status === 304) return response;
  const problem = await response.json().catch(() => ({}));
  if (response.status >= 500) throw new Unavailable(problem.detail ?? "The server does not answer.");
  throw new RequestRejected(response.status, problem);
}
