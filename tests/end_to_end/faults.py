"""The ways to break a house while a trial runs in it."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

import psutil

from nestor_server.embedded.process import Child
from nestor_server.scheduling import task_queue
from tests.end_to_end.api import Api
from tests.end_to_end.house import LEASE, House
from tests.support.server import wait_for
from tests.support.worker import Worker, command


def runner_of(worker: Worker) -> int:
    wait_for(lambda: len(worker.runners()) == 1, "one runner", seconds=60)
    return worker.runners()[0]


SHARE = 0.15  # of the time, that a slow runner may use a processor
CREDIT, DEBT = 0.3, 0.1  # seconds of it: for its first step; at most to be waited for


@contextmanager
def slowly(house: House) -> Iterator[None]:
    """Have runners stand still most of the time, so that a short trial outlasts many faults."""
    done, first_seen = threading.Event(), dict[int, tuple[float, float]]()

    def hold() -> None:
        while not done.wait(0.02):
            with suppress(OSError, psutil.Error):  # the worker is gone, or this runner is
                for pid in house.worker.runners():
                    now, used = time.monotonic(), sum(psutil.Process(pid).cpu_times()[:2])
                    began, before = first_seen.setdefault(pid, (now, used))
                    ahead = used - before - CREDIT - SHARE * (now - began)
                    first_seen[pid] = (began, before + max(0, ahead - DEBT))
                    os.kill(pid, signal.SIGSTOP if ahead > 0 else signal.SIGCONT)
        for pid in first_seen:
            with suppress(OSError):
                os.kill(pid, signal.SIGCONT)

    holding = threading.Thread(target=hold)
    holding.start()
    try:
        yield
    finally:
        done.set()
        holding.join()


def kill_the_runner(house: House, api: Api, trial_id: str) -> None:
    os.kill(runner_of(house.worker), signal.SIGKILL)


def crash_the_runner(house: House, api: Api, trial_id: str) -> None:
    os.kill(runner_of(house.worker), signal.SIGSEGV)
    # In any event: a runner stands by, so that "running" may follow before one has looked.
    told = lambda: [event for event in api.events(trial_id, "state") if "SIGSEGV" in event.get("why", "")]
    wait_for(told, "the reason to be told")


def kill_the_supervisor(house: House, api: Api, trial_id: str) -> None:
    family = [runner_of(house.worker), *house.worker.waiting()]
    house.worker.kill()
    wait_for(lambda: not any(command(pid) for pid in family), "its runners to follow", seconds=5)
    house.worker = house.new_worker()


def kill_the_whole_worker(house: House, api: Api, trial_id: str) -> None:
    for pid in (runner_of(house.worker), *house.worker.waiting()):
        os.kill(pid, signal.SIGKILL)
    house.worker.kill()
    house.worker = house.new_worker()


def kill_the_server(house: House, api: Api, trial_id: str) -> None:
    house.server.stop(signal.SIGKILL)
    house.server.start()


def kill_postgres(house: House, api: Api, trial_id: str) -> None:
    kill(house.postgres._child)
    house.restart_postgres()


def kill_valkey(house: House, api: Api, trial_id: str) -> None:
    kill(house.valkey._child)
    house.restart_valkey()


def kill(child: Child | None) -> None:
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)


def flush_the_broker_and_ring_again_and_again(house: House, api: Api, trial_id: str) -> None:
    house.flush_broker()
    for _ in range(3):
        assert task_queue.send(house.server.settings, UUID(trial_id))


def send_the_database_away(house: House, api: Api, trial_id: str) -> None:
    house.database.shut()
    time.sleep(LEASE / 2)
    house.database.open()


def stall_the_worker_past_its_lease(house: House, api: Api, trial_id: str) -> None:
    house.worker.process.send_signal(signal.SIGSTOP)
    try:
        wait_for(lambda: api.trial(trial_id)["state"] != "running", "the lease to be lost", seconds=30)
    finally:
        house.worker.process.send_signal(signal.SIGCONT)


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
    assert api.trial(trial_id)["step"] == max(api.checkpoints(trial_id), default=0)
    house.worker = house.new_worker()


def have_two_workers_race(house: House, api: Api, trial_id: str) -> None:
    """Each of several claims is one that both go for at once."""
    first, second = house.worker, house.new_worker()
    for _ in range(2):
        api.wish(trial_id, "pause")
        api.until(trial_id, "paused", "complete")
        api.wish(trial_id, "resume")
    api.until(trial_id, "running", "complete")
    first.stop()
    house.worker = second


Fault = Callable[[House, Api, str], None]
FAULTS: dict[Fault, bool] = {  # whether the attempt goes on through it
    kill_the_runner: False,
    crash_the_runner: False,
    kill_the_supervisor: False,
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
