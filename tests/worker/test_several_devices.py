"""One trial in two real processes under one supervisor."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Callable

import pytest
from sqlalchemy import select

from nestor.schemas import EventType, Preset, State, TrialCreate
from nestor_engine import Config, optimize
from nestor_server.models import Blob, Checkpoint, Step, Trial
from nestor_server.scheduling import leases
from nestor_server.storage import blobs
from nestor_worker.runner import presets
from nestor_worker.supervisor.attempt import supervise
from nestor_worker.supervisor.runners.process import Runner
from testbed.server import wait_for
from testbed.worker import command
from tests.worker.conftest import SPEC
from tests.worker.trials import claim, events

STEPS = 120


@pytest.fixture
def attempt(sessions, worker_settings, slot) -> Callable[..., State | None]:
    """Run a trial to the end of an attempt; call a function after its first step."""
    slot = dataclasses.replace(slot, devices=("cpu", "cpu"), checkpoint_seconds=0.2)

    def attempt(trial: Trial, happens: Callable[[Runner], None] | None = None) -> State | None:
        lease, runner = claim(sessions, trial.id), slot.spawn()

        def disturb() -> None:
            wait_for(lambda: step_of(sessions, trial) > 0, "a step")
            if happens is not None:
                happens(runner)

        watcher = threading.Thread(target=disturb)
        watcher.start()
        state = supervise(sessions, worker_settings, lease, slot, runner, threading.Event())
        watcher.join()
        assert [command(process.pid) for process in runner._processes] == [b"", b""]
        return state

    return attempt


def step_of(sessions, trial: Trial) -> int:
    with sessions() as session:
        return session.get_one(Trial, trial.id).step


def steps(sessions, trial: Trial) -> list[dict]:
    with sessions() as session:
        found = session.scalars(select(Step.data).where(Step.trial_id == trial.id).order_by(Step.number))
        by_the_clock = ("seconds", "traced")
        return [{name: value for name, value in step.items() if name not in by_the_clock} for step in found]


def last_checkpoint(sessions, trial: Trial) -> tuple[int, bytes]:
    newest = select(Checkpoint.step, Blob).join(Blob).where(Checkpoint.trial_id == trial.id)
    with sessions() as session:
        step, blob = session.execute(newest.order_by(Checkpoint.step.desc()).limit(1)).one()
        return step, blobs.load(session, blob)


def test_two_devices_compute_the_trajectory_of_one_and_an_interruption_changes_no_bit(sessions, new_trial, attempt):
    whole, interrupted = (new_trial(devices=2, n_steps=STEPS) for _ in range(2))
    assert attempt(whole) is State.complete
    spec = TrialCreate.model_validate(SPEC).model_dump(mode="json", include=set(Config.model_fields))
    spec["n_steps"] = STEPS
    problem = presets.build(Preset.model_validate(SPEC["problem"]["preset"]), seed=0)
    alone = [step.val_loss for step in optimize(problem.bilevel(), problem.data, Config(**spec))]
    assert [step["val_loss"] for step in steps(sessions, whole)] == pytest.approx(alone, rel=1e-3)

    kill_the_second = lambda runner: os.kill(runner._processes[1].pid, signal.SIGKILL)
    assert attempt(interrupted, kill_the_second) is State.queued
    with sessions() as session:
        why = events(session, interrupted.id, EventType.state)[-1]["why"]
        assert "its runner (process 2 of 2) was killed (SIGKILL)" in why
        assert session.get_one(Trial, interrupted.id).restarts == 1
    assert attempt(interrupted) is State.complete
    assert steps(sessions, interrupted) == steps(sessions, whole)
    assert last_checkpoint(sessions, interrupted) == last_checkpoint(sessions, whole)


def test_all_processes_stop_after_the_same_step(sessions, new_trial, attempt):
    trial = new_trial(devices=2, n_steps=1_000_000)

    def pause(runner: Runner) -> None:
        with sessions.begin() as session:
            leases.request(session, session.get_one(Trial, trial.id), "pause")

    assert attempt(trial, pause) is State.paused
    assert last_checkpoint(sessions, trial)[0] == step_of(sessions, trial)
