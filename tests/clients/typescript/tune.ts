// Submits, watches, steers and reads a trial with types generated from /openapi.json. Prints what it read.

import createClient from "openapi-fetch";
import type { components, paths } from "./nestor.ts";

const url = process.env["NESTOR_URL"], token = process.env["NESTOR_TOKEN"];
const client = createClient<paths>({ baseUrl: url!, headers: { Authorization: `Bearer ${token}` } });

/** What a request answered, or an error with the sentence of the server. */
function expectData<T>(answer: { data?: T; error?: { detail: string } | undefined }): T {
  if (answer.data === undefined) throw new Error(answer.error?.detail ?? "no answer");
  return answer.data;
}

/** Waits for events until the trial has ended, and collects their types. */
async function watch(trial_id: string): Promise<string[]> {
  const types: string[] = [];
  for (let after = 0, ended = false; !ended; ) {
    const page = expectData(
      await client.GET("/api/v1/trials/{trial_id}/events", {
        params: { path: { trial_id }, query: { after, wait: 20 } },
      }),
    );
    if (typeof page === "string") throw new Error("a stream");
    types.push(...page.items.map((event) => event.type));
    ({ next_after: after, ended } = page);
  }
  return types;
}

async function read(trial_id: string) {
  return expectData(await client.GET("/api/v1/trials/{trial_id}", { params: { path: { trial_id } } }));
}

const study = expectData(await client.POST("/api/v1/studies", { body: { name: "typed" } }));
const spec: components["schemas"]["TrialCreate"] = {
  problem: {
    preset: {
      model: { hidden: [32] },
      hyperparameters: [{ kind: "l2", per: "weight" }],
      train_size: 200,
      val_size: 100,
    },
  },
  n_steps: 20,
  inner: { optimizer: "adam", lr: 1e-3 },
  response: {
    kind: "implicit",
    curvature: { kind: "gauss_newton" },
    solver: { kind: "neumann", terms: 3 },
  },
};
const inStudy = { path: { study_id: study.id } };
const submitted = expectData(await client.POST("/api/v1/studies/{study_id}/trials", { params: inStudy, body: spec }));
const trial = { path: { trial_id: submitted.id } };
await watch(submitted.id);
expectData(await client.POST("/api/v1/trials/{trial_id}/extend", { params: trial, body: { steps: 10 } }));
const events = await watch(submitted.id);
const ended = await read(submitted.id);

const { columns } = expectData(
  await client.GET("/api/v1/trials/{trial_id}/steps", {
    params: { ...trial, query: { columns: ["number", "val_loss"] } },
  }),
);
const described = expectData(await client.GET("/api/v1/trials/{trial_id}/hyperparameters", { params: trial }));
const file = expectData(
  await client.GET("/api/v1/trials/{trial_id}/hyperparameters.safetensors", { params: trial, parseAs: "arrayBuffer" }),
);
const updated = expectData(
  await client.PATCH("/api/v1/trials/{trial_id}", { params: trial, body: { user_attrs: { owner: "ada" } } }),
);
const logs = expectData(await client.GET("/api/v1/trials/{trial_id}/logs", { params: trial }));

const endless = expectData(
  await client.POST("/api/v1/studies/{study_id}/trials", { params: inStudy, body: { ...spec, n_steps: 1_000_000 } }),
);
const other = { path: { trial_id: endless.id } };
expectData(await client.POST("/api/v1/trials/{trial_id}/pause", { params: other }));
expectData(await client.POST("/api/v1/trials/{trial_id}/stop", { params: other }));
await watch(endless.id);
const refused = await client.POST("/api/v1/trials/{trial_id}/resume", { params: other });

console.log(
  JSON.stringify({
    state: ended.state,
    steps: columns.number,
    val_loss: columns.val_loss,
    shape: described.items[0]?.shape,
    bytes: file.byteLength,
    user_attrs: updated.user_attrs,
    logs: logs.items.map((line) => line.text),
    stopped: (await read(endless.id)).state,
    refused: refused.error?.code,
    events,
  }),
);
