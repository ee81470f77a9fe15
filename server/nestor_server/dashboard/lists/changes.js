/** Changes of a study that overwrite nothing unseen: what someone else has changed meanwhile stays, and an error says so. */

import { etagOf, get, RequestRejected, send } from "../api.js";

/** @typedef {import("../store.js").Study} Study @typedef {"note" | "tags" | "user_attrs"} Field */

const MOST_TRIES = 5; // while trials record steps, the ETag of their study changes, too

/** Someone else has changed the same field. */
export class Changed extends Error {
  /** @param {Study} study as it is now @param {Field} field */
  constructor(study, field) {
    super(`${{ note: "The note was", tags: "The tags were", user_attrs: "The attributes were" }[field]} changed by someone else meanwhile, and nothing was saved. The page shows the present state.`);
    this.study = study;
  }
}

/**
 * Change a field of a study, if it still is what the user has seen.
 * @param {Study} seen @param {Field} field @param {object} patch @returns {Promise<Study>}
 */
export async function change(seen, field, patch) {
  const path = `/studies/${seen.id}`;
  for (let tries = 1; ; tries++) {
    const present = await get(path);
    if (JSON.stringify(present[field]) !== JSON.stringify(seen[field])) throw new Changed(present, field);
    try {
      return await send("PATCH", path, patch, { "If-Match": etagOf(path) });
    } catch (error) {
      if (!(error instanceof RequestRejected && error.status === 412) || tries === MOST_TRIES) throw error;
    }
  }
}

/** An attribute from "name = value". A value that is no JSON is a text. @param {string} text @returns {Record<string, unknown>} */
export function assignment(text) {
  const at = text.indexOf("=");
  const [name, value] = [text.slice(0, at).trim(), text.slice(at + 1).trim()];
  try {
    return { [name]: JSON.parse(value) };
  } catch {
    return { [name]: value };
  }
}
