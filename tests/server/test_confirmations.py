"""Trials are confirmed by trainings under their best hyperparameters: submitted once, and reported."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nestor.schemas import State
from tests.server.conftest import SPEC, Run, ok, problem


@pytest.fixture
def tuned(http, server, submit) -> Run:
    """A complete trial of six steps, the last of which is the best."""
    run = Run(server, submit(seed=7, user_attrs={"k": 1}, timeout=60)["id"])
    run.record(6)
    run.snapshot(6, {"l2.0.weight": np.zeros((64, 64), np.float32)})
    run.finish()
    return run


def test_trainings_start_anew_under_the_best_hyperparameters_with_seeds_of_their_own(http, tuned):
    found = ok(http.post(f"{tuned.path}/confirm", json={"seeds": 2}))
    assert (found["trial"], found["step"]) == (str(tuned.id), 6)
    assert found["tuned"]["value"] == pytest.approx(1 / 6)
    assert [(run["on"], run["seed"], run["number"]) for run in found["runs"]] == [
        ("train", 8, 1), ("train", 9, 2), ("train+val", 8, 3), ("train+val", 9, 4),
    ]  # fmt: skip
    assert {run["state"] for run in found["runs"]} == {"queued"}
    for run in found["runs"]:
        spec = ok(http.get(f"/trials/{run['trial']}"))["spec"]
        assert spec["warm_start"] == {"trial": str(tuned.id), "step": 6, "weights": False, "nudge": None}
        assert (spec["response"]["kind"], spec["train_on"], spec["n_steps"]) == ("frozen", run["on"], 6)
        assert spec["problem"]["preset"]["seed"] == 7  # the split and the first weights are those of the trial
        assert (spec["user_attrs"], spec["timeout"]) == ({}, None)


def test_the_report_has_what_complete_trainings_found_and_no_value_of_examples_that_trained(http, server, tuned):
    found = ok(http.post(f"{tuned.path}/confirm", json={"seeds": 1}))
    for run in found["runs"]:
        training = Run(server, run["trial"])
        training.record(3)
        training.finish()
    alone, together = ok(http.get(f"{tuned.path}/confirmation"))["runs"]
    assert (alone["state"], alone["value"]) == ("complete", pytest.approx(1 / 3))
    assert (together["state"], together["value"]) == ("complete", None)
    study = ok(http.get(f"/studies/{ok(http.get(tuned.path))['study_id']}"))
    assert study["best_value"] == pytest.approx(1 / 6)  # a training tunes nothing, and is not ranked


def test_each_training_is_submitted_once_by_twelve_clients(http, server, tuned):
    token = http.headers["Authorization"].removeprefix("Bearer ")

    def confirm(_: int) -> int:
        with server.http(token) as one:
            return len(ok(one.post(f"{tuned.path}/confirm", json={"seeds": 2, "on": ["train"]}))["runs"])

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(confirm, range(12))) == [2] * 12
    assert len(ok(http.post(f"{tuned.path}/confirm"))["runs"]) == 6  # three seeds on both by default


def test_a_training_that_failed_is_submitted_again(http, server, tuned):
    asked = {"seeds": 1, "on": ["train"]}
    (run,) = ok(http.post(f"{tuned.path}/confirm", json=asked))["runs"]
    Run(server, run["trial"]).finish(State.failed, {"code": "diverged", "detail": "x"})
    states = [run["state"] for run in ok(http.post(f"{tuned.path}/confirm", json=asked))["runs"]]
    assert states == ["failed", "queued"]


def test_what_cannot_be_confirmed_is_refused(http, server, submit, stranger, tuned):
    running = submit()
    problem(http.post(f"/trials/{running['id']}/confirm"), 409, "not-finished")
    problem(http.get(f"/trials/{running['id']}/confirmation"), 409, "nothing-to-confirm")
    ok(http.post(f"/trials/{running['id']}/cancel"))
    problem(http.post(f"/trials/{running['id']}/confirm"), 409, "nothing-to-confirm")
    (run, *_) = ok(http.post(f"{tuned.path}/confirm"))["runs"]
    problem(http.post(f"/trials/{run['trial']}/confirm"), 409, "nothing-tuned")
    for wrong in ({"seeds": 0}, {"seeds": 101}, {"seeds": "3"}, {"on": []}, {"on": ["val"]}, {"steps": 1}):
        problem(http.post(f"{tuned.path}/confirm", json=wrong), 422, "validation-failed")
    problem(stranger.post(f"{tuned.path}/confirm"), 404, "trial-not-found")
    problem(stranger.get(f"{tuned.path}/confirmation"), 404, "trial-not-found")


def test_a_best_step_without_a_snapshot_is_named(http, server, submit):
    run = Run(server, submit()["id"])
    run.record(2)
    run.finish()
    refused = problem(http.post(f"{run.path}/confirm"), 404, "hyperparameters-not-found")
    assert "step 2" in refused["detail"]


def test_validation_examples_train_only_under_fixed_hyperparameters(http, study):
    spec = SPEC | {"train_on": "train+val"}
    refused = problem(http.post(f"/studies/{study}/trials", json=spec), 422, "validation-failed")
    assert [(one["field"], one["code"]) for one in refused["errors"]] == [("train_on", "validation-trains")]
    ok(http.post(f"/studies/{study}/trials", json=spec | {"response": {"kind": "frozen"}}))
