/** What a user can ask of studies: to stop what runs in them, to archive them, and to restore them. */

import { get, send } from "../api.js";
import { plural } from "../format.js";
import { confirmed } from "../ui.js";

/** @typedef {import("../app.js").App} App @typedef {{id: string, name: string}} Named */

const MOST = 1_000; // running trials of a study

/** Stop the running trials of these studies, which keep their results. @param {App} app @param {readonly Named[]} studies */
export async function stopRunning(app, studies) {
  const text = `${named(studies)}: each running trial ends after its present step and keeps its result. Queued trials stay queued.`;
  if (!(await confirmed("Stop running trials?", text, `Stop trials of ${plural(studies.length, "study", "studies")}`))) return;
  await app.attempt(async () => {
    for (const { id } of studies) {
      const { items } = await get(`/studies/${id}/trials`, { state: "running", limit: MOST });
      for (const trial of items) if (trial.allowed_actions.includes("stop")) await send("POST", `/trials/${trial.id}/stop`);
    }
  });
}

/** Delete studies, which can be restored for some days. @param {App} app @param {readonly Named[]} studies @returns {Promise<boolean>} whether it was done */
export async function archive(app, studies) {
  const one = studies.length === 1;
  const title = one ? `Archive ${studies[0].name}?` : `Archive ${studies.length} studies?`;
  const what = one ? "Its unfinished trials are canceled." : `${named(studies)}. Their unfinished trials are canceled.`;
  const text = `${what} For some days, ${one ? "it" : "they"} can be restored.`;
  if (!(await confirmed(title, text, one ? "Archive the study" : `Archive ${studies.length} studies`))) return false;
  const done = await app.attempt(async () => {
    for (const { id } of studies) await send("DELETE", `/studies/${id}`);
    return true;
  });
  return done ?? false;
}

/** Take a deletion back. @param {App} app @param {Named} study @param {string} name that it gets */
export function restore(app, study, name) {
  return app.attempt(() => send("POST", `/studies/${study.id}/restore`, name === study.name ? undefined : { name }));
}

const FEW = 5; // names in a sentence

/** @param {readonly Named[]} studies */
function named(studies) {
  const names = studies.slice(0, FEW).map(({ name }) => `“${name}”`).join(", ");
  return studies.length > FEW ? `${names} and ${studies.length - FEW} more` : names;
}
