"""An operator takes a worker out of service: its trial goes on elsewhere, or waits, and loses nothing."""

from __future__ import annotations

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

BROKER = 11  # a database of Valkey that no other test uses
CHECKPOINTS = {"NESTOR_CHECKPOINT_SECONDS": 0.3}
N_STEPS = 200


@pytest.fixture(scope="module")
def server(services: Services) -> Iterator[Server]:
    short = {"lease_seconds": 5, "heartbeat_seconds": 0.5, "reap_seconds": 0.3, "requeue_after_seconds": 1.5}
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
        sent = lambda: [mine.trial(one)["attempt"] for one in (trial_id, unclaimed)]
        assert sent() == [1, 0]
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
        # As if another process had been started under the same name, as happens in containers.
        worker.kill()
        with server.sessions.begin() as session:
            rows = [session.get_one(WorkerRow, slot.id) for slot in slots]
            assert all(row.draining_since for row in rows)
    with running_worker(server, **CHECKPOINTS) as again:
        assert status(operator, again) != [WorkerStatus.drained]
        for trial_id in trials:
            mine.ask(trial_id, "cancel")
