/** A client of the REST interface that uses the session's cookie, and ETags for a cache of responses. */

const API = "api/v1";
const TIMEOUT = 15_000; // milliseconds

/** The server rejected the request, as its problem document says. */
export class RequestRejected extends Error {
  /** @param {number} status @param {{detail?: string, code?: string}} problem @param {number} [retryAfter] seconds */
  constructor(status, problem, retryAfter = 0) {
    super(problem.detail ?? `The server answered ${status}.`);
    this.status = status;
    this.code = problem.code;
    this.retryAfter = retryAfter;
  }
}

/** The server, or a part that it needs, did not answer, or something between answered in its place. */
export class Unavailable extends Error {
  retryAfter = 0; // seconds
}

/** @type {Map<string, {etag: string, body: any}>} */
const cache = new Map();
const MAX_CACHED = 100; // responses

/**
 * Read `path`. An answer that has not changed is the same object as before.
 * @param {string} path @param {Record<string, string | number | boolean | null | undefined>} [query] empty fields are left out
 * @returns {Promise<any>}
 */
export async function get(path, query = {}) {
  const address = path + search(query);
  const cached = cache.get(address);
  const response = await call(address, { headers: cached ? { "If-None-Match": cached.etag } : {} });
  const body = response.status === 304 && cached ? cached.body : await content(response);
  const etag = response.headers.get("ETag");
  cache.delete(address);
  if (etag) cache.set(address, { etag, body });
  for (const oldest of [...cache.keys()].slice(0, -MAX_CACHED)) cache.delete(oldest);
  return body;
}

/**
 * Send a request that changes something; returns the response, or null if it has no content.
 * @param {string} method @param {string} path @param {object} [content_] @param {Record<string, string>} [headers]
 */
export async function send(method, path, content_, headers = {}) {
  const sent = { "X-Nestor-Request": "1", ...headers, ...(content_ && { "Content-Type": "application/json" }) };
  const response = await call(path, { method, headers: sent, body: content_ && JSON.stringify(content_) });
  return response.status === 204 ? null : content(response);
}

/** The ETag of what `get` returned last for `path`, for If-Match; "" before. @param {string} path */
export function etagOf(path) {
  return cache.get(path)?.etag ?? "";
}

/** The address of an answer that is no JSON, for images and downloads. @param {string} path @param {Record<string, any>} [query] */
export function address(path, query = {}) {
  return `${API}${path}${search(query)}`;
}

/** The address of this server, as clients in other languages need it. */
export function serverAddress() {
  return new URL(".", location.href).href.replace(/\/$/, "");
}

/** Forget all answers, which are those of one user. */
export function forget() {
  cache.clear();
}

/** @param {Record<string, any>} query */
function search(query) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return text && `?${text}`;
}

/** @param {string} path @param {RequestInit} options */
async function call(path, options) {
  let response;
  try {
    // no-store: the ETags above are the only cache.
    response = await fetch(`${API}${path}`, { ...options, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT) });
  } catch {
    throw new Unavailable("The server does not answer.");
  }
  if (response.ok || response.status === 304) return response;
  const problem = await response.json().catch(() => ({}));
  const retryAfter = Number(response.headers.get("Retry-After")) || 0;
  if (response.status < 500) throw new RequestRejected(response.status, problem, retryAfter);
  throw Object.assign(new Unavailable(problem.detail ?? `The server answered ${response.status}.`), { retryAfter });
}

/** The JSON of an answer; not the page of a proxy or of a hotel's network. @param {Response} response */
async function content(response) {
  try {
    return await response.json();
  } catch {
    throw new Unavailable("Something between this page and the server answered in its place.");
  }
}
