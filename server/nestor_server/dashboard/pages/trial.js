/** One trial: did it get better, can it be believed, what moved. */

import { RequestRejected } from "../api.js";
import { percent } from "../format.js";
import { attempts } from "../panels/attempts.js";
import { entries } from "../panels/entries.js";
import { header } from "../panels/header.js";
import { log } from "../panels/log.js";
import { losses } from "../panels/losses.js";
import { Panels } from "../panels/panel.js";
import { options } from "../panels/options.js";
import { pictures } from "../panels/pictures.js";
import { tensor } from "../panels/tensor.js";
import { tensors } from "../panels/tensors.js";
import { tiles } from "../panels/tiles.js";
import { trust } from "../panels/trust.js";
import { LONG, SHORT } from "../poll.js";
import { link } from "../route.js";
import { stateText } from "../ui.js";
import { render } from "../vendor/lit-html/lit-html.js";
import { missing } from "./missing.js";

/** @param {import("../app.js").App} app @param {import("../route.js").Route} route @returns {import("../app.js").Page} */
export function trialPage(app, route) {
  const element = document.createElement("main");
  element.className = "trial";
  const panels = new Panels(app, () => watch.soon());
  element.append(
    panels.place("header", header),
    panels.place("tiles", tiles),
    panels.place("losses", losses),
    panels.place("trust", trust),
    panels.place("tensors", tensors),
    panels.place("tensor", tensor),
    panels.place("entries", entries),
    panels.place("pictures", pictures),
    panels.place("log", log),
    panels.place("attempts", attempts),
    panels.place("options", options),
  );
  app.heading([{ text: "…" }], "Trial");
  let isMissing = false;
  let study = /** @type {import("../store.js").Study | null} */ (null);

  const watch = app.polls.watch({
    read: async () => {
      const trial = await found(app, route.id);
      if (!trial) return null;
      study ??= await app.store.study(trial.study_id);
      const snapshot = { trial, study, steps: await app.store.steps(trial) };
      await panels.update(snapshot, route);
      return snapshot;
    },
    show: (snapshot) => {
      if (snapshot && isMissing) {
        app.reopen(); // it was restored
        return SHORT;
      }
      if (!snapshot) {
        if (!isMissing) {
          panels.destroy();
          element.replaceChildren();
          render(missing("There is no such trial", "It was deleted, or it belongs to another user.", "#/"), element);
          app.heading([{ text: "Trial not found" }], "Trial not found");
        }
        isMissing = true;
        return LONG;
      }
      const { trial, study } = snapshot;
      app.heading([{ text: study.name, href: link("study", study.id) }, { text: `Trial ${trial.number}` }], title(snapshot));
      return trial.finished_at ? LONG : SHORT;
    },
  });
  return {
    element,
    changed: (changed) => {
      route = changed;
      watch.soon();
    },
    destroy: () => {
      watch.stop();
      panels.destroy();
    },
  };
}

/** The trial, or null if it does not exist. @param {import("../app.js").App} app @param {string} id */
async function found(app, id) {
  try {
    return await app.store.trial(id);
  } catch (error) {
    if (error instanceof RequestRejected && error.status === 404) return null;
    throw error;
  }
}

/** "63 % · trial 3 · digits", "failed · trial 3 · digits". @param {import("../store.js").Snapshot} snapshot */
function title({ trial, study }) {
  const done = trial.state === "running" ? percent(trial.step / trial.n_steps) : stateText(trial);
  return `${done} · trial ${trial.number} · ${study.name}`;
}
