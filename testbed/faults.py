"""Faults to inject into a cluster while a trial runs in it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

import psutil

from nestor_server.embedded.process import Child
from nestor_server.scheduling import task_queue
from testbed.api import Api
from testbed.cluster import LEASE, TestCluster
from testbed.server import wait_for
from testbed.worker import Worker, command


def runner_of(worker: Worker) -> int:
    wait_for(lambda: len(worker.runners()) == 1, "one runner")
    return worker.runners()[0]


CPU_FRACTION = 0.085  # of the time, a slowed runner may use a processor
CREDIT, DEBT = 0.3, 0.1  # processor seconds: free for a runner's first step; the most it may owe


@contextmanager
def slow_runners(cluster: TestCluster) -> Iterator[None]:
    """Stop runners most of the time, so that a short trial outlasts many faults."""
    done, first_seen = threading.Event(), dict[int, tuple[float, float]]()

    def hold() -> None:
        while not done.wait(0.05):
            with suppress(OSError, psutil.Error):  # the worker is gone, or this runner is
                worker = cluster.worker
                for pid in worker.runners():
                    now, used = time.monotonic(), sum(psutil.Process(pid).cpu_times()[:2])
                    began, before = first_seen.setdefault(pid, (now, used))
                    ahead = used - before - CREDIT - CPU_FRACTION * (now - began)
                    first_seen[pid] = (began, before + max(0, ahead - DEBT))
                    # A worker that shuts down waits only some seconds for its runner.
                    os.kill(pid, signal.SIGSTOP if ahead > 0 and not worker.stopping else signal.SIGCONT)
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


def kill_the_runner(cluster: TestCluster, api: Api, trial_id: str) -> None:
    os.kill(runner_of(cluster.worker), signal.SIGKILL)


def crash_the_runner(cluster: TestCluster, api: Api, trial_id: str) -> None:
    os.kill(runner_of(cluster.worker), signal.SIGSEGV)
    # Search all events: a standby runner may have made the trial "running" again before this looks.
    reported = lambda: [event for event in api.events(trial_id, "state") if "SIGSEGV" in event.get("why", "")]
    wait_for(reported, "the reason to be reported")


def kill_the_supervisor(cluster: TestCluster, api: Api, trial_id: str) -> None:
    runners = [runner_of(cluster.worker), *cluster.worker.waiting()]
    cluster.worker.kill()
    wait_for(lambda: not any(command(pid) for pid in runners), "its runners to follow", seconds=5)
    cluster.worker = cluster.new_worker()


def kill_the_whole_worker(cluster: TestCluster, api: Api, trial_id: str) -> None:
    for pid in (runner_of(cluster.worker), *cluster.worker.waiting()):
        os.kill(pid, signal.SIGKILL)
    cluster.worker.kill()
    cluster.worker = cluster.new_worker()


def kill_the_server(cluster: TestCluster, api: Api, trial_id: str) -> None:
    cluster.server.stop(signal.SIGKILL)
    cluster.server.start()


def kill_postgres(cluster: TestCluster, api: Api, trial_id: str) -> None:
    kill(cluster.postgres.child)
    cluster.restart_postgres()


def kill_valkey(cluster: TestCluster, api: Api, trial_id: str) -> None:
    kill(cluster.valkey.child)
    cluster.restart_valkey()


def kill(child: Child | None) -> None:
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)


def flush_the_broker_and_resend_messages(cluster: TestCluster, api: Api, trial_id: str) -> None:
    cluster.flush_broker()
    for _ in range(3):
        assert task_queue.send(cluster.server.settings, UUID(trial_id))


def disconnect_the_database(cluster: TestCluster, api: Api, trial_id: str) -> None:
    cluster.database.block()
    time.sleep(LEASE / 2)
    cluster.database.unblock()


def stall_the_worker_past_its_lease(cluster: TestCluster, api: Api, trial_id: str) -> None:
    cluster.worker.process.send_signal(signal.SIGSTOP)
    try:
        wait_for(lambda: api.trial(trial_id)["state"] != "running", "the lease to be lost")
    finally:
        cluster.worker.process.send_signal(signal.SIGCONT)


def fill_the_disk(cluster: TestCluster, api: Api, trial_id: str) -> None:
    runner = runner_of(cluster.worker)
    limit_files(runner, 10)

    def warned() -> bool:
        return any("Free some space" in event["text"] for event in api.events(trial_id, "log"))

    wait_for(lambda: warned() or not command(runner), "a warning")
    if command(runner):
        limit_files(runner, 2**30)


def limit_files(pid: int, nbytes: int) -> None:
    """Bound the files that a process writes. Only its own account may do that, or a root that has all capabilities."""
    owner = os.stat(f"/proc/{pid}")
    account = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    subprocess.run(["prlimit", f"--pid={pid}", f"--fsize={nbytes}:"], check=True, **account)


def drain_the_worker(cluster: TestCluster, api: Api, trial_id: str) -> None:
    code = cluster.worker.stop()
    why, step = api.events(trial_id, "state")[-1]["why"], api.trial(trial_id)["step"]
    last = max(api.checkpoints(trial_id), default=0)
    cluster.worker = cluster.new_worker()  # before a check fails, because other tests use this cluster
    assert (code, step) == (0, last)
    assert "shutting down" in why


def have_two_workers_race(cluster: TestCluster, api: Api, trial_id: str) -> None:
    """Two workers compete for each of several claims."""
    first, second = cluster.worker, cluster.new_worker()
    for _ in range(2):
        api.request(trial_id, "pause")
        api.until(trial_id, "paused", "complete")
        api.request(trial_id, "resume")
    api.until(trial_id, "running", "complete")
    first.stop()
    cluster.worker = second


Fault = Callable[[TestCluster, Api, str], None]
FAULTS: dict[Fault, bool] = {  # whether the attempt survives it
    kill_the_runner: False,
    crash_the_runner: False,
    kill_the_supervisor: False,
    kill_the_whole_worker: False,
    kill_the_server: True,
    kill_postgres: True,
    kill_valkey: True,
    flush_the_broker_and_resend_messages: True,
    disconnect_the_database: True,
    stall_the_worker_past_its_lease: False,
    fill_the_disk: True,
    drain_the_worker: False,
    have_two_workers_race: False,
}
