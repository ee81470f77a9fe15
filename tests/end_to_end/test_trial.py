"""Trials by plain HTTP, through a real server, broker, worker and database."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
import safetensors.numpy

from nestor.schemas import Preset
from nestor_engine import Adam, Config, RMSprop, optimize
from nestor_server.models import Dataset, Program, Study
from nestor_server.storage import blobs
from nestor_worker.runner import presets
from testbed.api import ENDLESS, PRESET, Api
from testbed.server import Server, wait_for
from testbed.worker import Worker
from tests.support.programs import TENSORS, call, document


def test_a_submitted_trial_runs_to_its_end(api: Api, worker: Worker):
    noisy = {**PRESET, "hyperparameters": ["example_weights", {"kind": "l2", "per": "tensor"}], "label_noise": 0.3}
    trial_id = api.submit(20, problem={"preset": noisy}, evaluate_every=10)
    trial = api.until(trial_id, "complete", "failed")
    assert trial["error"] is None
    assert (trial["step"], trial["n_steps"], trial["attempt"], trial["worker"]) == (20, 20, 1, None)
    assert trial["value"] >= trial["best_value"]
    assert 1 <= trial["best_step"] <= 20
    api.expect_whole(trial_id, 20)
    assert [event["state"] for event in api.events(trial_id, "state")] == ["queued", "running", "complete"]
    wait_for(lambda: worker.runners() == [], "the runner to be gone")


def test_pause_resume_stop_and_cancel_do_what_they_say(api: Api, worker: Worker):
    trial_id = api.submit(ENDLESS)
    wait_for(lambda: api.trial(trial_id)["step"] > 5, "some steps")
    api.ask(trial_id, "pause")
    paused = api.until(trial_id, "paused")
    assert paused["step"] == api.checkpoints(trial_id)[-1]
    wait_for(lambda: worker.runners() == [], "the device to be free")

    api.ask(trial_id, "resume")
    wait_for(lambda: api.trial(trial_id)["step"] > paused["step"], "more steps")
    api.ask(trial_id, "stop")
    stopped = api.until(trial_id, "complete")
    assert paused["step"] < stopped["step"] < ENDLESS
    assert "stopped" in api.events(trial_id, "state")[-1]["why"]
    api.expect_whole(trial_id, stopped["step"])

    trial_id = api.submit(ENDLESS)
    wait_for(lambda: api.trial(trial_id)["step"] > 5, "some steps")
    api.ask(trial_id, "cancel")
    cancelled = api.until(trial_id, "cancelled")
    assert cancelled["step"] > 5
    assert cancelled["finished_at"] is not None


def test_a_training_that_diverges_fails_with_a_sentence(api: Api, worker: Worker):
    trial_id = api.submit(50, inner={"optimizer": "sgd", "lr": 1e30}, inner_steps=5)
    error = api.until(trial_id, "failed", "complete")["error"]
    assert error["code"] == "diverged"
    assert "Step 1:" in error["detail"]
    assert "Try a smaller learning rate" in error["detail"]
    assert api.events(trial_id, "state")[-1]["why"] == error["detail"]


def ship(server: Server, api: Api, graphs: bytes, tensors: bytes, splits: dict[str, Any]) -> dict[str, str]:
    """A problem in the database, without the server's checks."""
    with server.sessions.begin() as session:
        owner = session.get_one(Study, UUID(api.study)).owner_id
        store = lambda data: blobs.store(session, owner, data).digest
        program = Program(owner_id=owner, graphs=store(graphs), tensors=store(tensors), torch="2.13")
        digests = {split: store(bytes(data)) for split, data in splits.items()}
        dataset = Dataset(owner_id=owner, splits=digests, sizes=dict.fromkeys(digests, 1))
        session.add_all([program, dataset])
        session.flush()
        return {"program": str(program.id), "dataset": str(dataset.id)}


def test_an_uploaded_program_has_the_trajectory_of_the_local_problem(api: Api, server: Server, worker: Worker):
    problem = presets.build(Preset.model_validate(PRESET), seed=0)
    program = problem.export()
    trial_id = api.submit(3, problem=ship(server, api, program.graphs, program.tensors, problem.data.save()))
    trial = api.until(trial_id, "complete", "failed")
    assert trial["error"] is None
    config = Config(n_steps=3, inner=Adam(), inner_steps=1, outer=RMSprop())
    *_, last = optimize(problem.bilevel(), problem.data, config)
    assert trial["value"] == pytest.approx(last.value, rel=1e-4)


def test_a_malicious_program_is_refused_in_the_error_of_the_trial(api: Api, server: Server, worker: Worker, tmp_path):
    touched = tmp_path / "touched"
    poisoned, old = document(), document("2.1")
    for program in (poisoned, old):
        program["graphs"]["forward"]["nodes"][0] = call("os.system", f"touch {touched}")
    tensors, empty = safetensors.numpy.save(TENSORS), safetensors.numpy.save({})
    for program, reason in ((poisoned, "os.system"), (old, "torch 2.1")):
        problem = ship(server, api, json.dumps(program).encode(), tensors, {"train": empty, "val": empty})
        trial_id = api.submit(3, problem=problem)
        error = api.until(trial_id, "failed", "complete")["error"]
        assert error["code"] == "program-rejected"
        assert reason in error["detail"]
    assert not touched.exists()


def test_an_extended_trial_goes_on_bit_for_bit_and_a_warm_started_one_from_its_weights(api: Api, worker: Worker):
    at_once, in_two = api.submit(12), api.submit(5)
    api.until(in_two, "complete", "failed")
    api.ask(in_two, "extend", {"steps": 7})
    warm = api.submit(1, warm_start={"trial": in_two, "step": 5})
    for trial_id in (at_once, in_two, warm):
        assert api.until(trial_id, "complete", "failed")["error"] is None
    for trial_id in (at_once, in_two):
        for step in (same := api.steps(trial_id)):
            step |= {"test_loss": None, "test_metrics": {}}  # which the last step of a budget has besides
        assert same[-1]["number"] == 12
    assert api.steps(at_once)[5:11] == api.steps(in_two)[5:11]
    assert api.last_checkpoint(at_once) == api.last_checkpoint(in_two)
    assert api.steps(warm)[0]["train_loss"] < api.steps(at_once)[0]["train_loss"]


def test_a_standby_worker_takes_the_first_step_of_a_trial_soon(api: Api, worker: Worker):
    wait_for(lambda: worker.waiting(), "a runner in waiting")
    runner = worker.waiting()[0]
    trial_id = api.submit(ENDLESS)
    wait_for(lambda: api.trial(trial_id)["step"] > 0, "a step")
    assert worker.runners() == [runner]
    api.ask(trial_id, "cancel")
    api.until(trial_id, "cancelled")
    wait_for(lambda: worker.waiting() not in ([], [runner]), "the next runner in waiting")
