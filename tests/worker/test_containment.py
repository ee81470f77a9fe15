"""What a runner cannot do, and what happens to a trial that tries."""

from __future__ import annotations

import dataclasses
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nestor.schemas import EventType, State
from nestor_server.models import Trial
from nestor_worker.supervisor.attempt import supervise
from nestor_worker.supervisor.runners.process import Runner
from nestor_worker.supervisor.runners.standby import Standby
from testbed.server import wait_for
from testbed.worker import name
from tests.worker.trials import claim, events


@pytest.fixture(params=["forked", "executed"])
def runner(request, fork_server) -> Iterator[Runner]:
    runner = Runner(threads=1, devices=("cpu",), fork_server=fork_server if request.param == "forked" else None)
    yield runner
    runner.close()


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_it_gains_no_privileges_leaves_no_core_and_is_killed_first_when_memory_is_low(runner):
    wait_for(lambda: name(runner.pid) == "nestor-standby", "the runner to be contained")
    assert status(runner.pid)["NoNewPrivs"] == "1"
    assert int(Path(f"/proc/{runner.pid}/oom_score_adj").read_text()) > 0
    core = next(line for line in Path(f"/proc/{runner.pid}/limits").read_text().splitlines() if "core file" in line)
    assert core.split()[4:6] == ["0", "0"]


def test_a_trial_over_its_memory_limit_fails_with_an_error_message(sessions, worker_settings, new_trial, slot):
    spec = {
        "problem": {"preset": {"model": {"kind": "mlp", "hidden": [16_384, 16_384]}}},
        "inner": {"optimizer": "adam"},
    }
    trial = new_trial(spec=spec | {"n_steps": 10})
    slot = dataclasses.replace(slot, memory_bytes=3 * 2**29)
    lease = claim(sessions, trial.id)
    assert supervise(sessions, worker_settings, lease, slot, slot.spawn(), threading.Event()) is State.failed
    with sessions() as session:
        error = session.get_one(Trial, trial.id).error
        assert error is not None
        assert error["code"] == "out-of-memory"
        assert "Try a smaller model" in error["detail"]


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGKILL, "ran out of memory"), (signal.SIGSEGV, "SIGSEGV")])
def test_a_runner_that_the_kernel_kills_ends_its_attempt_with_the_reason(
    sessions, worker_settings, new_trial, sent, slot, number, reason
):
    trial = new_trial(n_steps=1_000_000)
    lease, runner = claim(sessions, trial.id), slot.spawn()

    def kill() -> None:
        wait_for(lambda: name(runner.pid) == "nestor-runner", "the trial to begin")
        os.kill(runner.pid, number)

    killing = threading.Thread(target=kill)
    killing.start()
    assert supervise(sessions, worker_settings, lease, slot, runner, threading.Event()) is State.queued
    killing.join()
    assert trial.id in sent
    with sessions() as session:
        row = session.get_one(Trial, trial.id)
        assert (row.restarts, row.preemptions) == (1, 0)
        assert reason in events(session, trial.id, EventType.state)[-1]["why"]
    assert not runner.directory.exists()


@pytest.mark.parametrize(
    ("first", "second", "end"),
    [
        (signal.SIGSEGV, signal.SIGSEGV, State.failed),
        (signal.SIGSEGV, signal.SIGBUS, State.queued),
        (signal.SIGKILL, signal.SIGKILL, State.queued),  # of a machine without memory, which another one may have
    ],
)
def test_a_runner_that_crashes_twice_in_the_same_way_ends_its_trial(
    sessions, worker_settings, new_trial, sent, slot, first, second, end
):
    """Each of three more restarts would have ended like that, and the user was sent to the worker's log."""
    trial = new_trial(n_steps=1_000_000)
    for number, expected in ((first, State.queued), (second, end)):
        lease, runner = claim(sessions, trial.id), slot.spawn()
        os.kill(runner.pid, number)  # before it begins, and so after the same step
        assert supervise(sessions, worker_settings, lease, slot, runner, threading.Event()) is expected
    with sessions() as session:
        row = session.get_one(Trial, trial.id)
        assert row.restarts == 2
        if end is State.failed:
            assert row.error is not None
            assert row.error["code"] == "trial-crashed"
            assert "SIGSEGV" in row.error["detail"]


def test_a_runner_that_hangs_twice_after_the_same_step_ends_its_trial(sessions, worker_settings, new_trial, sent, slot):
    trial = new_trial(n_steps=1_000_000)
    slot = dataclasses.replace(slot, silence_seconds=1)
    for expected in (State.queued, State.failed):
        lease, runner = claim(sessions, trial.id), slot.spawn()
        os.kill(runner.pid, signal.SIGSTOP)
        assert supervise(sessions, worker_settings, lease, slot, runner, threading.Event()) is expected
    with sessions() as session:
        error = session.get_one(Trial, trial.id).error
        assert error is not None
        assert "sent nothing for 1 s" in error["detail"]
        assert "NESTOR_SILENCE_SECONDS" in error["detail"]


def test_a_hanging_runner_ends_its_attempt_and_releases_the_trial(sessions, worker_settings, new_trial, sent, slot):
    trial = new_trial(n_steps=1_000_000)
    slot = dataclasses.replace(slot, silence_seconds=1)
    lease, runner = claim(sessions, trial.id), slot.spawn()
    os.kill(runner.pid, signal.SIGSTOP)
    assert supervise(sessions, worker_settings, lease, slot, runner, threading.Event()) is State.queued
    with sessions() as session:
        assert session.get_one(Trial, trial.id).restarts == 1
        assert "sent nothing for 1 s" in events(session, trial.id, EventType.state)[-1]["why"]
    assert not runner.is_alive


def test_each_slot_has_a_standby_runner_also_while_a_trial_runs_and_a_dead_one_is_replaced(slot):
    standby = Standby(enabled=True)
    standby.prepare(slot)
    first = standby._waiting[slot.name]
    assert standby.take(slot) is first
    dead = standby._waiting[slot.name]
    os.kill(dead.pid, signal.SIGKILL)
    wait_for(lambda: not dead.is_alive, "its end")
    fresh = standby.take(slot)
    assert fresh not in (first, dead)
    assert fresh.is_alive
    left = standby._waiting[slot.name]
    assert left.is_alive
    standby.close()
    assert not left.is_alive
    assert standby._waiting == {}
    for runner in (first, fresh):
        runner.close()
    assert not any(runner.directory.exists() for runner in (first, dead, fresh, left))


def test_a_trial_runs_although_no_runner_can_wait_for_the_next_one(
    slot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    standby = Standby(enabled=True)
    standby.prepare(slot)
    first = standby._waiting[slot.name]
    with monkeypatch.context() as broken:
        broken.setattr(tempfile, "tempdir", "/nowhere")  # no work directory can be created, as on a full disk
        taken = standby.take(slot)
    assert taken is first
    assert "no runner waits for the next trial of w1: " in caplog.text
    following = standby.take(slot)
    assert following.is_alive
    standby.close()
    for runner in (first, following):
        runner.close()


def test_without_standby_a_runner_is_spawned_when_it_is_needed(slot):
    standby = Standby(enabled=False)
    standby.prepare(slot)
    assert standby._waiting == {}
    runner = standby.take(slot)
    assert runner.is_alive
    runner.close()
