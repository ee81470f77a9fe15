"""Trials by plain HTTP, through a real server, broker, worker and database, and through what may befall them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest
import redis
from sqlalchemy import func, select

from nestor.schemas import Preset
from nestor_engine import Adam, Config, RMSprop, optimise
from nestor_server import queue
from nestor_server.models import Blob, Checkpoint, Dataset, Event, Program, Snapshot, Step, Study
from nestor_server.models import Worker as WorkerRow
from nestor_server.services import blobs
from nestor_worker import presets
from tests.support.server import Server, wait_for
from tests.support.worker import Worker, command, running_worker

PRESET = {"model": {"kind": "mlp", "hidden": [8]}, "train_size": 100, "val_size": 50}
ENDLESS = 1_000_000
LONG = 150  # steps; a few seconds, with checkpoints in between


class Api:
    """The few requests that these tests make."""

    def __init__(self, http: httpx.Client, server: Server) -> None:
        self._http, self._server = http, server
        study = self._post("/studies", {"name": "end to end"})
        self.study = study["id"]

    def submit(self, n_steps: int, **fields: Any) -> str:
        spec = {
            "problem": {"preset": PRESET},
            "inner": {"optimizer": "adam", "steps": 1},
            "outer": {"optimizer": "rmsprop", "steps": n_steps},
        }
        return self._post(f"/studies/{self.study}/trials", spec | fields)["id"]

    def trial(self, trial_id: str) -> dict[str, Any]:
        return self._http.get(f"/trials/{trial_id}").raise_for_status().json()

    def ask(self, trial_id: str, what: str) -> dict[str, Any]:
        return self._post(f"/trials/{trial_id}/{what}", None)

    def until(self, trial_id: str, *states: str, seconds: float = 120) -> dict[str, Any]:
        wait_for(lambda: self.trial(trial_id)["state"] in states, f"the trial to be {states}", seconds=seconds)
        return self.trial(trial_id)

    def until_checkpoint(self, trial_id: str, *, past: int = 0) -> None:
        wait_for(lambda: self.checkpoints(trial_id)[-1:] > [past], f"a checkpoint past {past}", seconds=60)

    def checkpoints(self, trial_id: str) -> list[int]:
        return self._read(
            select(Checkpoint.step).where(Checkpoint.trial_id == UUID(trial_id)).order_by(Checkpoint.step)
        )

    def events(self, trial_id: str, type: str) -> list[dict[str, Any]]:
        return self._read(
            select(Event.data).where(Event.trial_id == UUID(trial_id), Event.type == type).order_by(Event.seq)
        )

    def expect_whole(self, trial_id: str, n_steps: int) -> None:
        """Each step once, the journal without a gap, initial and last hyperparameters kept."""
        trial = UUID(trial_id)
        assert self._read(select(Step.number).where(Step.trial_id == trial).order_by(Step.number)) == list(
            range(1, n_steps + 1)
        )
        seqs = [seq for table in (Step, Event) for seq in self._read(select(table.seq).where(table.trial_id == trial))]
        assert len(set(seqs)) == len(seqs)
        snapshots = self._read(select(Snapshot.step).where(Snapshot.trial_id == trial))
        assert {0, n_steps} <= set(snapshots)

    def _read(self, query: Any) -> list[Any]:
        with self._server.sessions() as session:
            return list(session.scalars(query))

    def _post(self, path: str, body: Any) -> dict[str, Any]:
        answer = self._http.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()


@pytest.fixture
def api(server: Server) -> Iterator[Api]:
    with server.http(server.new_token()) as http:
        api = Api(http, server)
        yield api
        for trial in http.get(f"/studies/{api.study}/trials").json()["items"]:
            if trial["finished_at"] is None:  # of a test that failed: it would take the next one's worker
                api.ask(trial["id"], "cancel")


def only_runner(worker: Worker) -> int:
    wait_for(lambda: len(worker.runners()) == 1, "one runner", seconds=60)
    return worker.runners()[0]


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


def test_a_trial_whose_runner_is_killed_goes_on_from_its_checkpoint(api: Api, worker: Worker):
    trial_id = api.submit(LONG)
    api.until_checkpoint(trial_id)
    os.kill(only_runner(worker), signal.SIGKILL)
    trial = api.until(trial_id, "complete", "failed")
    assert (trial["state"], trial["attempt"]) == ("complete", 2)
    api.expect_whole(trial_id, LONG)
    interrupted = api.events(trial_id, "state")[2]
    assert interrupted["state"] == "queued"
    assert "SIGKILL" in interrupted["why"]
    resumed = [event["text"] for event in api.events(trial_id, "log") if "on from step" in event["text"]]
    assert len(resumed) == 1


def test_a_trial_whose_whole_worker_is_killed_goes_on_with_another(api: Api, server: Server):
    with running_worker(server, NESTOR_CHECKPOINT_SECONDS=0.3) as first:
        trial_id = api.submit(LONG)
        api.until_checkpoint(trial_id)
        runner = only_runner(first)
        first.kill()
        wait_for(lambda: not command(runner), "the runner to follow its worker", seconds=5)
    with running_worker(server):
        trial = api.until(trial_id, "complete", "failed")
    assert (trial["state"], trial["attempt"]) == ("complete", 2)
    api.expect_whole(trial_id, LONG)


def test_a_worker_that_is_shut_down_gives_its_trial_back_within_seconds(api: Api, server: Server):
    with running_worker(server) as first:
        trial_id = api.submit(LONG)
        wait_for(lambda: api.trial(trial_id)["step"] > 5, "some steps", seconds=60)
        began = time.monotonic()
        assert first.stop() == 0
        assert time.monotonic() - began < 8
    assert api.trial(trial_id)["state"] == "queued"
    given_back = api.events(trial_id, "state")[-1]
    assert "shutting down" in given_back["why"]
    reached = api.checkpoints(trial_id)[-1]
    assert api.trial(trial_id)["step"] == reached > 5
    with running_worker(server):
        trial = api.until(trial_id, "complete", "failed")
    assert (trial["state"], trial["attempt"]) == ("complete", 2)
    assert api.events(trial_id, "rewind") == []
    api.expect_whole(trial_id, LONG)


def test_pause_resume_stop_and_cancel_do_what_they_say(api: Api, worker: Worker):
    trial_id = api.submit(ENDLESS)
    wait_for(lambda: api.trial(trial_id)["step"] > 5, "some steps", seconds=60)
    api.ask(trial_id, "pause")
    paused = api.until(trial_id, "paused")
    assert paused["step"] == api.checkpoints(trial_id)[-1]
    wait_for(lambda: worker.runners() == [], "the device to be free")

    api.ask(trial_id, "resume")
    wait_for(lambda: api.trial(trial_id)["step"] > paused["step"], "more steps", seconds=60)
    api.ask(trial_id, "stop")
    stopped = api.until(trial_id, "complete")
    assert paused["step"] < stopped["step"] < ENDLESS
    assert "stopped" in api.events(trial_id, "state")[-1]["why"]
    api.expect_whole(trial_id, stopped["step"])

    trial_id = api.submit(ENDLESS)
    wait_for(lambda: api.trial(trial_id)["step"] > 5, "some steps", seconds=60)
    api.ask(trial_id, "cancel")
    cancelled = api.until(trial_id, "cancelled", seconds=5)
    assert cancelled["step"] > 5
    assert cancelled["finished_at"] is not None


def test_a_training_that_diverges_fails_with_a_sentence(api: Api, worker: Worker):
    trial_id = api.submit(50, inner={"optimizer": "sgd", "lr": 1e30, "steps": 5})
    error = api.until(trial_id, "failed", "complete")["error"]
    assert error["code"] == "diverged"
    assert "Step 1:" in error["detail"]
    assert "Try a smaller learning rate" in error["detail"]
    assert api.events(trial_id, "state")[-1]["why"] == error["detail"]


def test_the_broker_is_only_a_bell(api: Api, server: Server):
    broker = redis.Redis.from_url(server.settings.redis_url)
    forgotten = api.submit(3)
    broker.flushall()
    doubled = api.submit(3)
    for _ in range(3):
        assert queue.send(server.settings, UUID(doubled))
    with running_worker(server):
        assert api.until(doubled, "complete", "failed")["state"] == "complete"
        queue.send(server.settings, UUID(doubled))
        broker.flushall()
        later = api.submit(3)
        for trial_id in (forgotten, later):
            assert api.until(trial_id, "complete", "failed")["state"] == "complete"
    broker.close()
    for trial_id in (forgotten, doubled, later):
        assert api.trial(trial_id)["attempt"] == 1
        api.expect_whole(trial_id, 3)


def test_a_worker_says_that_it_is_alive_and_takes_its_leave(api: Api, server: Server):
    def rows() -> list[WorkerRow]:
        with server.sessions() as session:
            return [row for row in session.scalars(select(WorkerRow)) if row.id.endswith(f":{worker.pid}")]

    with running_worker(server) as worker:
        trial_id = api.submit(ENDLESS)
        wait_for(lambda: rows() and rows()[0].trial_id == UUID(trial_id), "the worker to say what it runs", seconds=60)
        assert rows()[0].device == "cpu"
        assert {"nestor", "torch"} <= set(rows()[0].versions)
        api.ask(trial_id, "cancel")
        api.until(trial_id, "cancelled")
        wait_for(lambda: rows()[0].trial_id is None, "the worker to be idle")
    assert rows() == []


def test_no_bytes_are_left_that_nothing_refers_to(server: Server):
    used = select(Snapshot.blob_id).union(select(Checkpoint.blob_id))
    with server.sessions() as session:
        assert session.scalars(select(func.count()).where(Blob.id.not_in(used), Blob.complete)).one() == 0


def ship(server: Server, api: Api, graphs: bytes, tensors: bytes, splits: dict[str, bytes]) -> dict[str, str]:
    """A problem as its uploads leave it, past the server's own checks."""
    with server.sessions.begin() as session:
        owner = session.get_one(Study, UUID(api.study)).owner_id
        store = lambda data: blobs.store(session, owner, data).digest
        program = Program(owner_id=owner, graphs=store(graphs), tensors=store(tensors), torch="2.13")
        digests = {split: store(data) for split, data in splits.items()}
        dataset = Dataset(owner_id=owner, splits=digests, sizes=dict.fromkeys(digests, 1))
        session.add_all([program, dataset])
        session.flush()
        return {"program": str(program.id), "dataset": str(dataset.id)}


def test_a_shipped_program_goes_the_same_way_as_the_problem_here(api: Api, server: Server, worker: Worker):
    problem = presets.build(Preset.model_validate(PRESET), seed=0)
    program = problem.export()
    trial_id = api.submit(3, problem=ship(server, api, program.graphs, program.tensors, problem.data.save()))
    trial = api.until(trial_id, "complete", "failed")
    assert trial["error"] is None
    config = Config(n_steps=3, inner=Adam(steps=1), outer=RMSprop())
    *_, last = optimise(problem.bilevel(), problem.data, config)
    assert trial["value"] == pytest.approx(last.val_loss, rel=1e-4)


def test_a_poisoned_program_is_refused_in_the_trials_error(api: Api, server: Server, worker: Worker, tmp_path):
    touched = tmp_path / "touched"
    graph = {"inputs": [], "nodes": [{"op": "os.system", "args": [f"touch {touched}"]}], "outputs": None}
    names = ("prepare", "forward", "criterion", "penalty", "evaluate")
    poisoned = {"format": 1, "torch": "2.13", "hparams": {}, "graphs": dict.fromkeys(names, graph)}
    old = poisoned | {"torch": "2.1"}
    empty = (2).to_bytes(8, "little") + b"{}"
    for program, reason in ((poisoned, "refused"), (old, "torch 2.1")):
        problem = ship(server, api, json.dumps(program).encode(), empty, {"train": empty, "val": empty})
        trial_id = api.submit(3, problem=problem)
        error = api.until(trial_id, "failed", "complete")["error"]
        assert error["code"] == "program-rejected"
        assert reason in error["detail"]
    assert not touched.exists()
