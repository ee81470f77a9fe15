"""Whatever fails under a trial, its trajectory is bit for bit that of a run that nothing befell.

Throughout, checkpoints lie in an object store, every message is delivered twice, a reader follows the trial, and a
witness in the database notes what is written. `python -m benchmarks.durability --soak 50` goes on with faults of any
kind in any order.
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
from tests.end_to_end import faults
from tests.end_to_end.api import Api
from tests.end_to_end.expected import LONG, Reader, endure, expect_trajectory, plain, started, undisturbed
from tests.end_to_end.faults import FAULTS, Fault
from tests.end_to_end.house import House
from tests.end_to_end.witness import expect_a_sound_journal
from tests.support.server import Server, wait_for
from tests.support.worker import running_worker


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with ExitStack() as stack:
        house = House(stack)
        yield house
        house.expect_nothing_left()


@pytest.fixture(scope="module")
def server(house: House) -> Server:
    return house.server


@pytest.fixture(scope="module")
def uninterrupted() -> list[Step]:
    return undisturbed()


# --- faults ---------------------------------------------------------------------------------------


LIVES = {  # what befalls one trial after the other
    "the machines around the worker": [faults.kill_the_server, faults.kill_postgres, faults.kill_valkey],
    "what it writes to": [faults.flush_the_broker_and_ring_again_and_again, faults.send_the_database_away,
                          faults.fill_the_disk],
    "its processes": [faults.kill_the_runner, faults.kill_the_supervisor, faults.crash_the_runner,
                      faults.kill_the_whole_worker],
    "its place": [faults.drain_the_worker, faults.stall_the_worker_past_its_lease, faults.have_two_workers_race],
}  # fmt: skip


def test_every_fault_is_in_a_life():
    assert sorted(map(repr, FAULTS)) == sorted(repr(fault) for life in LIVES.values() for fault in life)


@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES.keys())
def test_a_trial_goes_on_as_if_nothing_had_happened(house: House, api: Api, uninterrupted, life: list[Fault]):
    trial_id = api.submit(LONG)
    reader = Reader(api, trial_id)
    with faults.slowly(house):
        for fault in life:
            before = api.until_a_new_checkpoint(trial_id)
            fault(house, api, trial_id)
            after = api.until(trial_id, "running", "complete")
            if FAULTS[fault]:
                assert after["attempt"] == before["attempt"]
            else:
                api.until_another_attempt(trial_id, before["attempt"])
    expect_trajectory(api, house.worker, trial_id, uninterrupted)
    reader.expect_steps(LONG)


def test_faults_of_any_kind_in_any_order(house: House, api: Api, uninterrupted, round_number: int):
    endure(house, api, uninterrupted, random.Random(round_number), n_faults=3)


def test_a_backup_of_a_running_trial_is_restored_and_goes_on_from_its_checkpoint(house: House, api: Api, uninterrupted):
    trial_id = api.submit(LONG)
    with faults.slowly(house):
        api.until_a_new_checkpoint(trial_id)
        with house.restored_from_a_backup() as server:
            api.ask(trial_id, "cancel")
            with server.http(api.token) as http, running_worker(server, NESTOR_CHECKPOINT_SECONDS=0.1) as worker:
                assert expect_trajectory(Api(http, server), worker, trial_id, uninterrupted)["attempt"] == 2


# --- wishes ---------------------------------------------------------------------------------------


def test_wishes_are_granted_at_every_phase_however_often_and_by_however_many_they_are_asked(
    house: House, api: Api, uninterrupted
):
    trial_id = api.submit(LONG)
    reader = Reader(api, trial_id)
    with faults.slowly(house):
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
            assert all(crowd.map(lambda wish: api.wish(trial_id, wish), [*["pause", "resume"] * 10, "resume"]))
    while api.until(trial_id, "paused", "complete", "running")["state"] != "complete":
        api.wish(trial_id, "resume")
        time.sleep(0.1)
    expect_trajectory(api, house.worker, trial_id, uninterrupted)
    reader.expect_steps(LONG)
    before = api.trial(trial_id)
    assert api.ask(trial_id, "stop") == before
    for wish in ("pause", "resume", "cancel", "retry"):
        with pytest.raises(IllegalTransition):
            api.wish(trial_id, wish, refused=True)
    assert api.trial(trial_id) == before


def test_a_trial_that_is_stopped_and_extended_is_the_one_that_was_not_and_another_starts_where_it_stopped(
    house: House, api: Api, uninterrupted
):
    """Runners are killed in between."""
    trial_id = api.submit(LONG)
    with faults.slowly(house):
        api.until_a_new_checkpoint(trial_id)
        with ThreadPoolExecutor(4) as crowd:
            assert all(crowd.map(lambda wish: api.wish(trial_id, wish), ["stop"] * 4))
        stopped = api.until(trial_id, "complete")["step"]
    assert 0 < stopped < LONG
    assert api.steps(trial_id) == [plain(step) for step in uninterrupted[:stopped]]

    expected = started(uninterrupted[stopped - 1].state, 60)
    warm = api.submit(60, study=api.new_study(), warm_start={"trial": trial_id, "step": stopped})
    faults.kill_the_runner(house, api, warm)
    assert expect_trajectory(api, house.worker, warm, expected)["attempt"] == 2

    api.ask(trial_id, "extend", {"steps": LONG - stopped})
    faults.kill_the_runner(house, api, trial_id)
    assert expect_trajectory(api, house.worker, trial_id, uninterrupted)["attempt"] == 3


def test_whoever_asks_at_once_for_different_ends_one_of_them_comes_and_what_is_recorded_is_true(
    house: House, api: Api, uninterrupted, round_number: int
):
    trial_id = api.submit(LONG)
    reader = Reader(api, trial_id)
    wishes = ["pause", "resume", "stop", "cancel"] * 3
    random.Random(round_number).shuffle(wishes)
    with faults.slowly(house), ThreadPoolExecutor(4) as crowd:
        api.until_a_new_checkpoint(trial_id)
        list(crowd.map(lambda wish: api.wish(trial_id, wish), wishes))
        trial = api.until(trial_id, "cancelled", "complete", seconds=30)
    assert trial["desired"] == {"cancelled": "cancel", "complete": "stop"}[trial["state"]]
    assert api.steps(trial_id) == [plain(step) for step in islice(uninterrupted, trial["step"])]
    expect_a_sound_journal(house.server, trial_id, trial["step"])
    reader.expect_steps(trial["step"])
    assert api.unused_blobs() == 0
    wait_for(lambda: house.worker.runners() == [], "the runner to be gone")


def test_a_runner_has_a_group_of_its_own_and_no_secret(house: House):
    wait_for(house.worker.waiting, "a runner in waiting", seconds=60)
    runner = house.worker.waiting()[0]
    assert os.getpgid(runner) == os.getsid(runner) == runner != os.getpgid(house.worker.pid)
    environment = Path(f"/proc/{runner}/environ").read_bytes()
    assert b"OMP_NUM_THREADS=1" in environment
    for secret in ("NESTOR_", "AWS_", "TOKEN", house.server.settings.database_url, house.server.settings.redis_url):
        assert secret.encode() not in environment


# --- patience: last, for its worker is another one --------------------------------------------


def test_a_database_that_is_away_for_twenty_seconds_of_a_longer_lease_costs_no_attempt(
    house: House, api: Api, uninterrupted
):
    """The broker and the server fail besides."""
    house.worker.stop()
    house.worker = house.new_worker(NESTOR_LEASE_SECONDS=40)
    trial_id = api.submit(LONG)
    api.until_a_new_checkpoint(trial_id)
    house.database.shut()
    back = time.monotonic() + 20
    faults.kill_valkey(house, api, trial_id)
    house.server.stop(signal.SIGKILL)
    time.sleep(back - time.monotonic())
    house.database.open()
    house.server.start()
    assert expect_trajectory(api, house.worker, trial_id, uninterrupted)["attempt"] == 1
