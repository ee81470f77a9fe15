"""Trainings under changed hyperparameters are submitted once, and compared with what was predicted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from nestor.schemas import State
from nestor_server.scheduling import recording
from tests.server.conftest import SPEC, Run, ok, problem, step

FIVE = {"retrainings": 5, "size": 0.2}


@pytest.fixture
def tuned(server, submit) -> Run:
    """A complete trial of six steps, the last of which is the best."""
    run = Run(server, submit(seed=7, user_attrs={"k": 1}, timeout=60)["id"])
    run.record(6)
    run.snapshot(6, {"l2.0.weight": np.zeros((64, 64), np.float32)})
    run.finish()
    return run


def train(server, run: dict[str, Any], value: float, *, steps: int = 6, **last: Any) -> None:
    """Take the steps of a training, the last of which was evaluated."""
    training = Run(server, UUID(run["trial"]))
    training.record(steps - 1)
    recorded = step(steps).model_copy(update={"value": value, **last})
    with server.sessions.begin() as session:
        recording.record(session, training.lease, recording.RecordedBatch(steps=(recorded,)))
    training.finish()


def test_trainings_start_anew_under_changes_of_the_best_hyperparameters_with_the_same_seed(http, tuned):
    found = ok(http.post(f"{tuned.path}/truth", json=FIVE))
    assert (found["trial"], found["step"], found["size"]) == (str(tuned.id), 6, 0.2)
    assert [(run["nudge"], run["number"]) for run in found["runs"]] == [(None, 1), *((n, n + 2) for n in range(5))]
    assert {run["state"] for run in found["runs"]} == {"queued"}
    response = ok(http.get(tuned.path))["spec"]["response"]
    for run in found["runs"]:
        trial = ok(http.get(f"/trials/{run['trial']}"))
        spec, nudge = trial["spec"], {"size": 0.2, "number": run["nudge"]}
        assert spec["warm_start"] == {"trial": str(tuned.id), "step": 6, "weights": False, "nudge": nudge}
        measured = response if run["nudge"] is None else None
        assert spec["response"] == {"kind": "frozen", "measured": measured}
        assert (spec["n_steps"], spec["evaluate_every"], spec["seed"]) == (6, 6, 7)
        assert spec["problem"]["preset"]["seed"] == 7  # the split and the first weights are those of the trial
        assert (spec["user_attrs"], spec["timeout"], trial["tunes"]) == ({}, None, False)


def test_the_report_compares_what_is_complete(http, server, tuned):
    unchanged, *changed = ok(http.post(f"{tuned.path}/truth", json=FIVE))["runs"]
    reals = (0.1, -0.2, 0.3, 0.0, 0.05)
    for run, real in zip(changed, reals, strict=True):
        train(server, run, 2 + real)
    report = ok(http.get(f"{tuned.path}/truth?size=0.2"))
    assert report["score"] is report["value"] is None
    assert report["sentence"] == (
        "5 of 5 retrainings are complete. A score needs 5, and the training under unchanged hyperparameters."
    )
    train(server, unchanged, 2.0, predicted={str(n): 2 * real for n, real in enumerate(reals)})
    report = ok(http.get(f"{tuned.path}/truth?size=0.2"))
    assert (report["value"], report["score"]) == (2.0, pytest.approx(1))
    assert [run["real"] for run in report["runs"]] == [None, *map(pytest.approx, reals)]
    assert [run["predicted"] for run in report["runs"]] == [None, *(2 * real for real in reals)]
    assert report["sentence"].startswith("The hypergradient predicts what retraining gives: its score over 5")
    assert ok(http.get(f"{tuned.path}/truth"))["runs"] == []  # of the default size
    assert ok(http.get(f"{tuned.path}/confirmation"))["runs"] == []
    study = ok(http.get(f"/studies/{ok(http.get(tuned.path))['study_id']}"))
    assert study["best_value"] == pytest.approx(1 / 6)  # a training tunes nothing, and is not ranked
    verdict = ok(http.get(f"/trials/{unchanged['trial']}"))["verdict"]
    assert (verdict["answer"], verdict["code"]) == ("yes", "retrained")


def test_each_training_is_submitted_once_by_twelve_clients(http, server, tuned):
    token = http.headers["Authorization"].removeprefix("Bearer ")

    def ask(_: int) -> int:
        with server.http(token) as one:
            return len(ok(one.post(f"{tuned.path}/truth", json=FIVE))["runs"])

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, range(12))) == [6] * 12
    assert len(ok(http.post(f"{tuned.path}/truth", json=FIVE | {"retrainings": 7}))["runs"]) == 8
    assert len(ok(http.post(f"{tuned.path}/truth"))["runs"]) == 21  # twenty, of another size, by default


def test_a_training_that_failed_or_was_cut_short_is_submitted_again_and_not_compared(http, server, tuned):
    unchanged, first, second, *others = ok(http.post(f"{tuned.path}/truth", json=FIVE))["runs"]
    Run(server, UUID(first["trial"])).finish(State.failed, {"code": "diverged", "detail": "x"})
    train(server, second, 3.0, steps=4)  # its user stopped it
    train(server, unchanged, 2.0, predicted={str(n): 0.1 * n for n in range(5)})
    for run in others:
        train(server, run, 2.5)
    report = ok(http.post(f"{tuned.path}/truth", json=FIVE))
    assert [run["nudge"] for run in report["runs"]] == [None, 0, 1, 2, 3, 4, 0, 1]
    assert [run["state"] for run in report["runs"]][-2:] == ["queued", "queued"]
    assert [run["nudge"] for run in report["runs"] if run["real"] is not None] == [2, 3, 4]
    assert report["sentence"] == "3 of 5 retrainings are complete. A score needs 5."


def test_the_truth_is_copied_as_that_of_the_copied_trial(http, server, study, tuned):
    for run in ok(http.post(f"{tuned.path}/truth", json=FIVE))["runs"]:
        train(server, run, 2.0)
    made = ok(http.post(f"/studies/{study}/copy", json={"name": "copy"}))["id"]
    copies = {trial["number"]: trial["id"] for trial in ok(http.get(f"/studies/{made}/trials"))["items"]}
    original = ok(http.get(tuned.path))["number"]
    found = ok(http.get(f"/trials/{copies[original]}/truth?size=0.2"))
    assert [run["trial"] for run in found["runs"]] == [copies[run["number"]] for run in found["runs"]]
    assert len(found["runs"]) == 6


def test_what_has_no_truth_is_refused(http, submit, stranger, tuned):
    running = submit()
    problem(http.post(f"/trials/{running['id']}/truth"), 409, "not-finished")
    problem(http.get(f"/trials/{running['id']}/truth"), 409, "nothing-to-confirm")
    ok(http.post(f"/trials/{running['id']}/cancel"))
    problem(http.post(f"/trials/{running['id']}/truth"), 409, "nothing-to-confirm")
    (run, *_) = ok(http.post(f"{tuned.path}/truth"))["runs"]
    problem(http.post(f"/trials/{run['trial']}/truth"), 409, "nothing-tuned")
    for wrong in ({"retrainings": 4}, {"retrainings": 101}, {"retrainings": "9"}, {"size": 0}, {"steps": 1}):
        problem(http.post(f"{tuned.path}/truth", json=wrong), 422, "validation-failed")
    for wrong in ("0", "-1", "inf", "much"):
        problem(http.get(f"{tuned.path}/truth?size={wrong}"), 422, "validation-failed")
    problem(stranger.post(f"{tuned.path}/truth"), 404, "trial-not-found")
    problem(stranger.get(f"{tuned.path}/truth"), 404, "trial-not-found")


def test_only_fixed_hyperparameters_are_nudged(http, study, tuned):
    spec = SPEC | {"warm_start": {"trial": str(tuned.id), "weights": False, "nudge": {"number": 3}}}
    refused = problem(http.post(f"/studies/{study}/trials", json=spec), 422, "validation-failed")
    assert [one["field"] for one in refused["errors"]] == ["warm_start"]
    ok(http.post(f"/studies/{study}/trials", json=spec | {"response": {"kind": "frozen"}}))
