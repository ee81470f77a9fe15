"""Whatever fails under a trial, its trajectory equals that of an uninterrupted run, bit for bit.

In all tests, checkpoints go to an object store, every message is delivered twice, a reader follows the trial, and a
database trigger audits what is written. `python -m benchmarks.durability --soak 50` continues with random faults.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import pytest

from nestor.errors import IllegalTransition
from nestor_engine import Step
from testbed import faults
from testbed.api import Api
from testbed.audit_trigger import expect_consistent_journal
from testbed.cluster import TestCluster
from testbed.expected import (
    LONG,
    Reader,
    expect_steps,
    expect_trajectory,
    inject_faults,
    uninterrupted_steps,
    warm_started_steps,
)
from testbed.faults import FAULTS, Fault
from testbed.server import Server, wait_for
from testbed.worker import running_worker


@pytest.fixture(scope="module")
def cluster() -> Iterator[TestCluster]:
    with ExitStack() as stack:
        cluster = TestCluster(stack)
        yield cluster
        cluster.expect_no_leftovers()


@pytest.fixture(scope="module")
def server(cluster: TestCluster) -> Server:
    return cluster.server


@pytest.fixture(scope="module")
def uninterrupted() -> list[Step]:
    return uninterrupted_steps()


# --- faults ---------------------------------------------------------------------------------------


FAULT_SEQUENCES = {  # the faults of one trial, in order
    "the machines around the worker": [faults.kill_the_server, faults.kill_postgres, faults.kill_valkey],
    "what it writes to": [faults.flush_the_broker_and_resend_messages, faults.disconnect_the_database,
                          faults.fill_the_disk],
    "its processes": [faults.kill_the_runner, faults.kill_the_supervisor, faults.crash_the_runner,
                      faults.kill_the_whole_worker],
    "its worker": [faults.drain_the_worker, faults.stall_the_worker_past_its_lease, faults.have_two_workers_race],
}  # fmt: skip


def test_every_fault_is_in_a_sequence():
    assert sorted(map(repr, FAULTS)) == sorted(
        repr(fault) for sequence in FAULT_SEQUENCES.values() for fault in sequence
    )


@pytest.mark.parametrize("sequence", FAULT_SEQUENCES.values(), ids=FAULT_SEQUENCES.keys())
def test_a_trial_continues_after_faults_with_the_same_trajectory(
    cluster: TestCluster, api: Api, uninterrupted, sequence: list[Fault]
):
    trial_id = api.submit(LONG)
    reader = Reader(api, trial_id)
    with faults.slow_runners(cluster):
        for fault in sequence:
            before = api.until_a_new_checkpoint(trial_id)
            fault(cluster, api, trial_id)
            after = api.until(trial_id, "running", "complete")
            if FAULTS[fault]:
                assert after["attempt"] == before["attempt"]
            else:
                api.until_another_attempt(trial_id, before["attempt"])
    expect_trajectory(api, cluster.worker, trial_id, uninterrupted)
    reader.expect_steps(LONG)


def test_faults_of_any_kind_in_any_order(cluster: TestCluster, api: Api, uninterrupted, round_number: int):
    inject_faults(cluster, api, uninterrupted, random.Random(round_number), n_faults=3)


def test_a_backup_of_a_running_trial_is_restored_and_goes_on_from_its_checkpoint(
    cluster: TestCluster, api: Api, uninterrupted
):
    trial_id = api.submit(LONG)
    with faults.slow_runners(cluster):
        api.until_a_new_checkpoint(trial_id)
        with cluster.restored_from_a_backup() as server:
            api.ask(trial_id, "cancel")
            with server.http(api.token) as http, running_worker(server, NESTOR_CHECKPOINT_SECONDS=0.1) as worker:
                assert expect_trajectory(Api(http, server), worker, trial_id, uninterrupted)["attempt"] == 2


# --- requests ---------------------------------------------------------------------------------------


def test_requests_take_effect_in_every_phase_when_repeated_and_when_concurrent(
    cluster: TestCluster, api: Api, uninterrupted
):
    trial_id = api.submit(LONG)
    reader = Reader(api, trial_id)
    with faults.slow_runners(cluster):
        for phase in ("queued", "running", "trained"):
            if phase != "queued":
                api.until(trial_id, "running")
            if phase == "trained":
                api.until_a_new_checkpoint(trial_id)
            for _ in range(2):
                api.ask(trial_id, "pause")
            assert api.until(trial_id, "paused")["worker"] is None
            assert api.ask(trial_id, "pause")["state"] == "paused"
            for _ in range(2):
                api.ask(trial_id, "resume")
        with ThreadPoolExecutor(4) as crowd:
            assert all(crowd.map(lambda action: api.request(trial_id, action), [*["pause", "resume"] * 10, "resume"]))
    while api.until(trial_id, "paused", "complete", "running")["state"] != "complete":
        api.request(trial_id, "resume")
        time.sleep(0.1)
    expect_trajectory(api, cluster.worker, trial_id, uninterrupted)
    reader.expect_steps(LONG)
    before = api.trial(trial_id)
    assert api.ask(trial_id, "stop") == before
    for action in ("pause", "resume", "cancel", "retry"):
        with pytest.raises(IllegalTransition):
            api.request(trial_id, action, refused=True)
    assert api.trial(trial_id) == before


def test_extending_a_stopped_trial_equals_one_that_never_stopped_and_a_warm_start_begins_where_it_stopped(
    cluster: TestCluster, api: Api, uninterrupted
):
    """A runner is killed in each of the two trials."""
    trial_id = api.submit(LONG)
    with faults.slow_runners(cluster):
        api.until_a_new_checkpoint(trial_id)
        with ThreadPoolExecutor(4) as crowd:
            assert all(crowd.map(lambda action: api.request(trial_id, action), ["stop"] * 4))
        stopped = api.until(trial_id, "complete")["step"]
    assert 0 < stopped < LONG
    expect_steps(api, trial_id, uninterrupted[:stopped])

    expected = warm_started_steps(uninterrupted[stopped - 1].state, 60)
    warm = api.submit(60, study=api.new_study(), warm_start={"trial": trial_id, "step": stopped})
    faults.kill_the_runner(cluster, api, warm)
    assert expect_trajectory(api, cluster.worker, warm, expected)["attempt"] == 2

    api.ask(trial_id, "extend", {"steps": LONG - stopped})
    faults.kill_the_runner(cluster, api, trial_id)
    assert expect_trajectory(api, cluster.worker, trial_id, uninterrupted)["attempt"] == 3


def test_of_concurrent_conflicting_requests_one_wins_and_the_record_is_consistent(
    cluster: TestCluster, api: Api, uninterrupted, round_number: int
):
    trial_id = api.submit(LONG)
    reader = Reader(api, trial_id)
    actions = ["pause", "resume", "stop", "cancel"] * 3
    random.Random(round_number).shuffle(actions)
    with faults.slow_runners(cluster), ThreadPoolExecutor(4) as crowd:
        api.until_a_new_checkpoint(trial_id)
        list(crowd.map(lambda action: api.request(trial_id, action), actions))
        trial = api.until(trial_id, "cancelled", "complete")
    assert trial["desired"] == {"cancelled": "cancel", "complete": "stop"}[trial["state"]]
    expect_steps(api, trial_id, islice(uninterrupted, trial["step"]))
    expect_consistent_journal(cluster.server, trial_id, trial["step"])
    reader.expect_steps(trial["step"])
    assert api.unused_blobs() == 0
    wait_for(lambda: cluster.worker.runners() == [], "the runner to be gone")


def test_a_runner_has_its_own_process_group_and_no_secrets(cluster: TestCluster):
    wait_for(cluster.worker.waiting, "a runner in waiting")
    runner = cluster.worker.waiting()[0]
    assert os.getpgid(runner) == os.getsid(runner) == runner != os.getpgid(cluster.worker.pid)
    environment = Path(f"/proc/{runner}/environ").read_bytes()
    assert b"OMP_NUM_THREADS=1" in environment
    for secret in ("NESTOR_", "AWS_", "TOKEN", cluster.server.settings.database_url, cluster.server.settings.redis_url):
        assert secret.encode() not in environment


# --- a longer lease: last, because it replaces the worker --------------------------------------------


def test_a_database_outage_of_twenty_seconds_under_a_longer_lease_costs_no_attempt(
    cluster: TestCluster, api: Api, uninterrupted
):
    """The broker and the server fail, too."""
    cluster.worker.stop()
    cluster.worker = cluster.new_worker(NESTOR_LEASE_SECONDS=40)
    trial_id = api.submit(LONG)
    api.until_a_new_checkpoint(trial_id)
    cluster.database.block()
    back = time.monotonic() + 20
    faults.kill_valkey(cluster, api, trial_id)
    cluster.server.stop(signal.SIGKILL)
    time.sleep(back - time.monotonic())
    cluster.database.unblock()
    cluster.server.start()
    assert expect_trajectory(api, cluster.worker, trial_id, uninterrupted)["attempt"] == 1
