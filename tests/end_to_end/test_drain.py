"""An operator takes a worker out of service: its trial goes on elsewhere, or waits, and loses nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from nestor import Client
from nestor.schemas import WorkerStatus
from nestor_server.models import Worker as WorkerRow
from testbed.api import ENDLESS, Api
from testbed.server import Server, running_server, wait_for
from testbed.services import Services
from testbed.worker import Worker, running_worker
from tests.client.shell import Shell

BROKER = 11  # a database of Valkey that no other test uses
CHECKPOINTS = {"NESTOR_CHECKPOINT_SECONDS": 0.3}
N_STEPS = 1_000  # so many take longer than an operator does to drain a worker, also on a fast machine
REQUEUE_SECONDS = 1.5


@pytest.fixture(scope="module")
def server(services: Services) -> Iterator[Server]:
    short = {
        "lease_seconds": 5,
        "heartbeat_seconds": 0.5,
        "reap_seconds": 0.3,
        "requeue_after_seconds": REQUEUE_SECONDS,
    }
    with running_server(services, redis_db=BROKER, **short) as server:
        yield server


@pytest.fixture
def operator(server: Server) -> Iterator[Client]:
    with Client(server.url, server.token) as client:
        yield client


def id_of(worker: Worker) -> str:
    return WorkerRow.id_of(worker.pid)


def status(operator: Client, worker: Worker) -> list[WorkerStatus]:
    """Of each slot."""
    return [one.status for one in operator.workers().items if one.process == id_of(worker)]


def until_drained(operator: Client, worker: Worker) -> None:
    wait_for(lambda: set(status(operator, worker)) == {WorkerStatus.drained}, "the worker to be drained")


def as_without_a_drain(api: Api, trial_id: str) -> None:
    """The trial has each step once, with the numbers of one that was not interrupted, and paid for nothing."""
    undisturbed = api.submit(N_STEPS)
    assert api.until(undisturbed, "complete", "failed")["attempt"] == 1
    trial = api.trial(trial_id)
    assert (trial["restarts"], trial["preemptions"], trial["error"]) == (0, 0, None)
    api.expect_whole(trial_id, N_STEPS)
    assert api.steps(trial_id) == api.steps(undisturbed)


def attempts(operator: Client, trial: dict[str, Any]) -> list[tuple[str | None, str | None]]:
    return [(one.worker, one.why) for one in operator.attempts(trial["id"])]


@pytest.fixture
def mine(server: Server) -> Iterator[Api]:
    """Trials of the operator, who sees which worker runs them."""
    with server.http() as http:
        yield Api(http, server)


def test_the_trial_of_a_worker_that_drains_goes_on_at_another_one(server, operator, mine):
    with ExitStack() as stack:
        workers = [stack.enter_context(running_worker(server, **CHECKPOINTS)) for _ in range(2)]
        trial_id = mine.submit(N_STEPS)
        mine.until_a_new_checkpoint(trial_id)
        first, second = sorted(workers, key=lambda worker: id_of(worker) != mine.trial(trial_id)["worker"])
        assert status(operator, second) == [WorkerStatus.idle]

        (slot,) = operator.drain(id_of(first)).items
        assert (slot.status, slot.busy) == (WorkerStatus.draining, True)
        assert operator.drain(id_of(first)).items[0].draining_since == slot.draining_since
        mine.until(trial_id, "complete", "failed")
        until_drained(operator, first)

        moved = [(id_of(first), "preempted: its worker drains, and another one continues")]
        assert attempts(operator, mine.trial(trial_id))[:1] == moved
        assert [worker for worker, _ in attempts(operator, mine.trial(trial_id))] == [id_of(first), id_of(second)]
        as_without_a_drain(mine, trial_id)
        assert status(operator, first) == [WorkerStatus.drained]
        assert first.stop() == 0


def test_without_another_worker_the_trial_waits_also_across_a_restart_of_the_server(server, operator, mine):
    with running_worker(server, **CHECKPOINTS) as worker:
        trial_id = mine.submit(N_STEPS)
        mine.until_a_new_checkpoint(trial_id)
        operator.drain(id_of(worker))
        waiting = mine.until(trial_id, "queued")
        assert waiting["step"] == mine.checkpoints(trial_id)[-1] < N_STEPS
        until_drained(operator, worker)

        server.stop()
        server.start()
        unclaimed = mine.submit(1)
        (slot,) = operator.workers().items
        assert (slot.status, slot.queue) == (WorkerStatus.drained, 2)
        began = slot.heartbeat_at
        since = lambda: (operator.workers().items[0].heartbeat_at - began).total_seconds()
        wait_for(lambda: since() > 2 * REQUEUE_SECONDS, "the reaper to send messages of what waits, if it did")
        assert [mine.trial(one)["attempt"] for one in (trial_id, unclaimed)] == [1, 0]
        assert mine.trial(trial_id)["state"] == mine.trial(unclaimed)["state"] == "queued"

        operator.undrain(id_of(worker))
        assert mine.until(trial_id, "complete", "failed")["attempt"] == 2
        mine.until(unclaimed, "complete")
        as_without_a_drain(mine, trial_id)


def test_all_slots_of_a_process_drain_and_a_process_that_starts_again_takes_trials(server, operator, mine):
    with running_worker(server, NESTOR_CONCURRENCY=2, **CHECKPOINTS) as worker:
        trials = [mine.submit(ENDLESS) for _ in range(2)]
        for trial_id in trials:
            mine.until_a_new_checkpoint(trial_id)
        slots = operator.drain(f"{id_of(worker)}/1").items
        assert [(slot.id, slot.slots, slot.busy_slots) for slot in slots] == [
            (f"{id_of(worker)}/0", 2, 2),
            (f"{id_of(worker)}/1", 2, 2),
        ]
        until_drained(operator, worker)
        assert [mine.trial(one)["state"] for one in trials] == ["queued"] * 2
        worker.kill()
    with running_worker(server, NESTOR_CONCURRENCY=2, **CHECKPOINTS) as again:
        running = lambda: [str(mine.trial(one)["worker"]).partition("/")[0] for one in trials]
        wait_for(lambda: running() == [id_of(again)] * 2, "a new process to take the trials")
        for trial_id in trials:
            mine.ask(trial_id, "cancel")


def test_the_command_waits_until_the_worker_is_drained_and_takes_it_back(server, operator, mine):
    shell = Shell(NESTOR_SERVER=server.url, NESTOR_TOKEN=server.token)
    with running_worker(server, **CHECKPOINTS) as worker:
        trial_id = mine.submit(ENDLESS)
        mine.until_a_new_checkpoint(trial_id)
        (drained,) = json.loads(shell("workers", "drain", id_of(worker), "--wait", "--json"))["items"]
        assert (drained["status"], drained["busy"]) == ("drained", False)
        assert mine.trial(trial_id)["state"] == "queued"
        assert "idle" in shell("workers", "drain", id_of(worker), "--undo")
        mine.until(trial_id, "running")
        assert status(operator, worker) != [WorkerStatus.drained]
        mine.ask(trial_id, "cancel")
