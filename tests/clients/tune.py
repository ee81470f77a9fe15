"""Drives a trial with a client that openapi-python-client generated as `nestor_rest`, and prints what it read."""
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import os
import sys
import time
from uuid import UUID

import safetensors.numpy
from nestor_rest import AuthenticatedClient
from nestor_rest.api.hyperparameters import download_hyperparameters, get_hyperparameters
from nestor_rest.api.studies import create_study, get_study
from nestor_rest.api.trials import (
    create_trial,
    extend_trial,
    get_events,
    get_steps,
    get_trial,
    list_logs,
    list_trials,
    resume_trial,
    stop_trial,
    update_trial,
)
from nestor_rest.models import (
    Adam,
    GaussNewton,
    GetStepsColumnsItem,
    Implicit,
    L2Preset,
    L2PresetPer,
    MLPPreset,
    Neumann,
    Preset,
    PresetProblem,
    ProblemDocument,
    State,
    StudyCreate,
    Trial,
    TrialCreate,
    TrialExtend,
    TrialPatch,
    TrialPatchSetUserAttrs,
)

ENDED = (State.COMPLETE, State.FAILED, State.CANCELLED, State.PRUNED)
client = AuthenticatedClient(os.environ["NESTOR_URL"], os.environ["NESTOR_TOKEN"])


def until_it_ends(trial: UUID) -> Trial:
    """The trial after its end. While nothing changes, the answers are empty."""
    etag, found = "", None
    while found is None or found.state not in ENDED:
        answer = get_trial.sync_detailed(trial, client=client, if_none_match=etag)
        if answer.status_code == 304:
            time.sleep(0.1)
            continue
        assert isinstance(answer.parsed, Trial), answer
        found, etag = answer.parsed, answer.headers["ETag"]
    return found


study = create_study.sync(client=client, body=StudyCreate(name="generated"))
spec = TrialCreate(
    problem=PresetProblem(
        Preset(
            model=MLPPreset(hidden=[32]),
            train_size=200,
            val_size=100,
            hyperparameters=[L2Preset(kind="l2", per=L2PresetPer.WEIGHT)],
        )
    ),
    n_steps=20,
    inner=Adam(optimizer="adam", lr=1e-3),
    response=Implicit(
        kind="implicit", curvature=GaussNewton(kind="gauss_newton"), solver=Neumann(kind="neumann", terms=3, alpha=0.05)
    ),
)
trial = create_trial.sync(study.id, client=client, body=spec, idempotency_key="once")
again = create_trial.sync_detailed(study.id, client=client, body=spec, idempotency_key="once")
assert again.headers["Idempotency-Replayed"] == "true"
assert until_it_ends(trial.id).step == 20
extended = extend_trial.sync(trial.id, client=client, body=TrialExtend(steps=10))
assert extended.n_steps == 30
ended = until_it_ends(trial.id)

wanted = [GetStepsColumnsItem.NUMBER, GetStepsColumnsItem.VAL_LOSS]
steps = get_steps.sync(trial.id, client=client, columns=wanted).columns
described = get_hyperparameters.sync(trial.id, client=client)
tensors = download_hyperparameters.sync(trial.id, client=client).payload.read()
values = safetensors.numpy.load(tensors)
assert {info.name: tuple(info.shape) for info in described.items} == {
    name: value.shape for name, value in values.items()
}
first = described.items[0]

attributes = TrialPatchSetUserAttrs()
attributes["owner"] = "ada"
updated = update_trial.sync(trial.id, client=client, body=TrialPatch(set_user_attrs=attributes))
logs = list_logs.sync(trial.id, client=client)

spec.n_steps = 1_000_000
endless = create_trial.sync(study.id, client=client, body=spec)
for _ in range(600):
    if get_trial.sync(endless.id, client=client).step > 0:
        break
    time.sleep(0.1)
stop_trial.sync(endless.id, client=client)
stopped = until_it_ends(endless.id)
refused = resume_trial.sync(endless.id, client=client)
assert isinstance(refused, ProblemDocument)

events = get_events.sync(trial.id, client=client, wait=1)
assert len(list_trials.sync(study.id, client=client, state=[State.COMPLETE]).items) == 2
assert get_study.sync(study.id, client=client).best_value == ended.best_value

json.dump(
    {
        "state": str(ended.state),
        "steps": steps.number,
        "val_loss": steps.val_loss,
        "shape": first.shape,
        "bytes": len(tensors),
        "user_attrs": updated.user_attrs.to_dict(),
        "logs": [line.text for line in logs.items],
        "stopped": str(stopped.state),
        "refused": refused.code,
        "events": [str(event.type_) for event in events.items],
    },
    sys.stdout,
)
