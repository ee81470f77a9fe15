"""The verdict on a trial, from the evidence that a server keeps in its row."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from nestor.ranking import Ranking
from nestor.results.verdicts import Evidence, judge
from nestor.schemas import HyperparameterInfo, State, Step, Verdict
from nestor_server.models import Trial
from nestor_server.scheduling import leases, recording
from tests.server.conftest import Run, ok, step


def record(run: Run, *steps: Step, **batch: Any) -> None:
    run.number = steps[-1].number
    with run.server.sessions.begin() as session:
        recording.record(session, run.lease, recording.RecordedBatch(steps=steps, **batch))


def diverged(number: int) -> Step:
    return step(number).model_copy(update={"outcome": "diverged"})


def verdict(http, run: Run) -> Any:
    return ok(http.get(run.path))["verdict"]


def expected(*steps: Step, n_hparams: int = 0) -> dict[str, Any]:
    found = judge(Evidence.of(steps, Ranking()), n_hparams=n_hparams, folds=False)
    assert found is not None
    return found.model_dump(mode="json")


def test_the_verdict_follows_the_batches_of_steps_and_is_in_lists(http, study, run):
    assert verdict(http, run) is None
    record(run, step(1), step(2))
    assert verdict(http, run) == expected(step(1), step(2))
    record(run, step(3), diverged(4))
    found = verdict(http, run)
    assert found == expected(step(1), step(2), step(3), diverged(4))
    assert Verdict.model_validate(found).code == "some_solves_failed"
    (listed,) = ok(http.get(f"/studies/{study}/trials"))["items"]
    assert listed["verdict"] == found


def test_the_entries_of_the_hyperparameters_count(http, run):
    infos = (HyperparameterInfo(name="l2", shape=(2, 3), dtype="float32", transform="exp"),)
    record(run, step(1), step(2), hyperparameters=infos)
    found = verdict(http, run)
    assert found == expected(step(1), step(2), n_hparams=6)
    assert found["code"] == "not_measured"


def test_steps_that_are_withdrawn_are_no_evidence(http, run):
    record(run, step(1), step(2))
    run.checkpoint()
    record(run, diverged(3), diverged(4), diverged(5))
    assert verdict(http, run)["code"] == "solves_failed"
    with run.server.sessions.begin() as session:
        leases.requeue(session, run.lease, "its runner was killed")
    run.claim()
    assert verdict(http, run) == expected(step(1), step(2))


def test_a_batch_that_is_sent_again_counts_once(http, run):
    for _ in range(2):
        record(run, step(1), step(2), diverged(3), number=1)
    assert verdict(http, run) == expected(step(1), step(2), diverged(3))


@pytest.mark.parametrize("end", ["worker", "user"])
def test_a_trial_that_completes_with_a_no_says_so_in_its_log(http, run, end):
    record(run, diverged(1), diverged(2))
    if end == "worker":
        run.finish()
    else:  # of a trial that no worker holds
        ok(http.post(f"{run.path}/pause"))
        run.finish(State.paused)
        ok(http.post(f"{run.path}/stop"))
    trial, (*_, line) = ok(http.get(run.path)), ok(http.get(f"{run.path}/logs"))["items"]
    found = trial["verdict"]
    assert (trial["state"], found["answer"]) == ("complete", "no")
    assert (line["level"], line["step"], line["text"]) == ("warning", 2, f"{found['sentence']} {found['remedy']}")


def test_a_trial_that_completes_with_a_yes_logs_nothing(http, run):
    record(run, step(1), step(2))
    run.finish()
    assert verdict(http, run)["answer"] == "yes"
    assert ok(http.get(f"{run.path}/logs"))["items"] == []


def test_a_failed_trial_names_its_error_until_it_is_tried_again(http, run):
    run.finish(State.failed, {"code": "diverged", "detail": "The training loss is not finite at step 3."})
    found = verdict(http, run)
    assert (found["answer"], found["code"]) == ("no", "failed")
    assert "The training loss is not finite at step 3." in found["sentence"]
    ok(http.post(f"{run.path}/retry"))
    assert verdict(http, run) is None


def test_a_trial_of_an_earlier_version_has_a_verdict_on_all_its_steps_from_the_next_one_on(http, run):
    record(run, diverged(1), step(2))
    with run.server.sessions.begin() as session:
        session.execute(update(Trial).where(Trial.id == run.id).values(evidence=None))
    assert verdict(http, run) is None
    record(run, step(3))
    assert verdict(http, run) == expected(diverged(1), step(2), step(3))
