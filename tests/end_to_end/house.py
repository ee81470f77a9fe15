"""All of Nestor, each part with a handle to break it by, and the ways to break it."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from uuid import UUID

import redis

from nestor_server import queue
from nestor_server.embedded.home import Home
from nestor_server.embedded.postgres import Postgres
from nestor_server.embedded.valkey import Valkey
from tests.end_to_end.api import Api
from tests.support.proxy import Door
from tests.support.server import Server, running_server, wait_for
from tests.support.services import Services, fresh_home
from tests.support.worker import Worker, command, running_worker

LEASE = 5.0  # seconds


class House:
    """Everything, each part with a handle to break it by."""

    def __init__(self, stack: ExitStack) -> None:
        home = Home(stack.enter_context(fresh_home()))
        home.acquire()
        stack.callback(home.release)
        self.postgres, self.valkey = Postgres(home), Valkey(home)
        stack.callback(self.postgres.stop)
        stack.callback(self.valkey.stop)
        self.database, self.broker = Door(self.postgres.start()), Door(self.valkey.start())
        for door in (self.database, self.broker):
            stack.callback(door.close)
        services = Services(home.path, self.database.url, self.broker.url)
        impatient = {
            "lease_seconds": LEASE, "heartbeat_seconds": 0.5, "reap_seconds": 0.3, "requeue_after_seconds": 1.5
        }  # fmt: skip
        self.server: Server = stack.enter_context(running_server(services, **impatient))
        self._workers = stack.enter_context(ExitStack())
        self.worker = self.new_worker()

    def new_worker(self) -> Worker:
        return self._workers.enter_context(running_worker(self.server, NESTOR_CHECKPOINT_SECONDS=0.1))

    def flush_broker(self) -> None:
        with redis.Redis.from_url(self.server.settings.redis_url) as broker:
            broker.flushall()


# --- the faults -----------------------------------------------------------------------------------


def runner_of(worker: Worker) -> int:
    wait_for(lambda: len(worker.runners()) == 1, "one runner", seconds=60)
    return worker.runners()[0]


def kill_the_runner(house: House, api: Api, trial_id: str) -> None:
    os.kill(runner_of(house.worker), signal.SIGKILL)


def kill_the_whole_worker(house: House, api: Api, trial_id: str) -> None:
    runner = runner_of(house.worker)
    house.worker.kill()
    wait_for(lambda: not command(runner), "the runner to follow its worker", seconds=5)
    house.worker = house.new_worker()


def kill_the_server(house: House, api: Api, trial_id: str) -> None:
    house.server.stop(signal.SIGKILL)
    house.server.start()


def kill_postgres(house: House, api: Api, trial_id: str) -> None:
    child = house.postgres._child
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    house.postgres.stop()
    house.database.lead_to(house.postgres.start())


def kill_valkey(house: House, api: Api, trial_id: str) -> None:
    child = house.valkey._child
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    house.valkey.stop()
    house.broker.lead_to(house.valkey.start())


def flush_the_broker_and_ring_again_and_again(house: House, api: Api, trial_id: str) -> None:
    house.flush_broker()
    for _ in range(3):
        assert queue.send(house.server.settings, UUID(trial_id))


def send_the_database_away(house: House, api: Api, trial_id: str) -> None:
    house.database.shut()
    time.sleep(LEASE / 2)
    house.database.open()


def stall_the_worker_past_its_lease(house: House, api: Api, trial_id: str) -> None:
    attempt = api.trial(trial_id)["attempt"]
    house.worker.process.send_signal(signal.SIGSTOP)
    try:
        wait_for(lambda: api.trial(trial_id)["state"] != "running", "the lease to be lost", seconds=30)
    finally:
        house.worker.process.send_signal(signal.SIGCONT)
    assert api.trial(trial_id)["attempt"] >= attempt


def fill_the_disk(house: House, api: Api, trial_id: str) -> None:
    runner = runner_of(house.worker)
    before = resource.prlimit(runner, resource.RLIMIT_FSIZE)
    resource.prlimit(runner, resource.RLIMIT_FSIZE, (10, before[1]))

    def complained() -> bool:
        return any("make room" in event["text"] for event in api.events(trial_id, "log"))

    wait_for(lambda: complained() or not command(runner), "a complaint", seconds=30)
    if command(runner):
        resource.prlimit(runner, resource.RLIMIT_FSIZE, before)


def drain_the_worker(house: House, api: Api, trial_id: str) -> None:
    assert house.worker.stop() == 0
    assert "shutting down" in api.events(trial_id, "state")[-1]["why"]
    assert api.trial(trial_id)["step"] == api.checkpoints(trial_id)[-1]
    house.worker = house.new_worker()


def have_two_workers_race(house: House, api: Api, trial_id: str) -> None:
    runner = runner_of(house.worker)
    os.kill(runner, signal.SIGSTOP)  # or the trial might end before the second worker is there
    first, house.worker = house.worker, house.new_worker()
    for _ in range(5):
        queue.send(house.server.settings, UUID(trial_id))
    first.kill()


Fault = Callable[[House, Api, str], None]
FAULTS: dict[Fault, bool] = {  # whether the attempt goes on through it
    kill_the_runner: False,
    kill_the_whole_worker: False,
    kill_the_server: True,
    kill_postgres: True,
    kill_valkey: True,
    flush_the_broker_and_ring_again_and_again: True,
    send_the_database_away: True,
    stall_the_worker_past_its_lease: False,
    fill_the_disk: True,
    drain_the_worker: False,
    have_two_workers_race: False,
}
