"""What is kept of a trial while it trains: beside it, seldom enough, and never half."""

from __future__ import annotations

import resource
import threading
import time

import pytest

from nestor.schemas import Preset
from nestor_engine import Config, State, optimise
from nestor_worker.channel import Checkpoint, LogLine, Snapshot
from nestor_worker.runner import presets
from nestor_worker.runner.recorder import MAX_CHECKPOINT_DUTY_CYCLE, BackgroundCheckpointer, CannotWrite, Trajectory
from nestor_worker.workdir import Spec

PRESET = {"model": {"kind": "mlp", "hidden": [8]}, "train_size": 100, "val_size": 50}


class Told:
    """A trajectory of a small problem, and what it says."""

    def __init__(self, directory, *, checkpoint_seconds: float) -> None:
        problem = presets.build(Preset.model_validate(PRESET), seed=0)
        config = Config(n_steps=100)
        spec = Spec({}, PRESET, None, None, None, threads=1, checkpoint_seconds=checkpoint_seconds)
        self.directory, self.said = directory, []
        self.trajectory = Trajectory(directory, spec, config, self.said.append, problem.bilevel())
        self.trajectory.begin(None, "cpu")
        self._steps = optimise(problem.bilevel(), problem.data, config)

    def take(self, n: int = 1) -> None:
        for _ in range(n):
            self.trajectory.take(next(self._steps))

    def of(self, kind: type) -> list:
        return [message for message in self.said if isinstance(message, kind)]


@pytest.fixture
def no_room():
    """A disk that takes no file of more than a few bytes, as long as it is entered."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Full:
        def __enter__(self):
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))

        def __exit__(self, *_):
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return Full()


def test_a_checkpoint_holds_the_step_at_which_it_was_due_however_far_training_has_gone_since(tmp_path):
    told = Told(tmp_path, checkpoint_seconds=1e-9)
    told.take(5)
    told.trajectory.end(stopped=True)
    kept = told.of(Checkpoint)
    assert kept[-1].step == 5
    for checkpoint in kept:
        assert State.load((tmp_path / checkpoint.file).read_bytes()).step == checkpoint.step


def test_checkpoints_do_not_hold_up_the_training():
    checkpointer, go_on = BackgroundCheckpointer(1e-9), threading.Event()
    assert checkpointer.is_due
    checkpointer.start(go_on.wait)
    assert not checkpointer.is_due  # one at a time
    go_on.set()
    checkpointer.finish()


def test_the_dearer_checkpoints_are_the_fewer_there_are():
    checkpointer = BackgroundCheckpointer(1e-9)

    def dear() -> None:
        while time.thread_time() < 0.05:
            pass

    checkpointer.start(dear)
    checkpointer.finish()
    assert checkpointer._due_at - time.monotonic() > 0.05 / MAX_CHECKPOINT_DUTY_CYCLE - 1
    assert not checkpointer.is_due


def test_what_fails_beside_the_training_fails_the_trial():
    checkpointer = BackgroundCheckpointer(1e-9)
    checkpointer.start(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        checkpointer.finish()


def test_a_full_disk_costs_snapshots_and_checkpoints_but_not_the_training(tmp_path, no_room):
    told = Told(tmp_path, checkpoint_seconds=1e-9)
    told.take()
    told.trajectory._checkpointer.finish()
    before = sorted(path.name for path in tmp_path.iterdir())
    kept = len(told.of(Checkpoint))
    with no_room:
        told.take(3)
        told.trajectory._checkpointer.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert len(told.of(Checkpoint)) == kept
    (warning,) = told.of(LogLine)
    assert "make room on the worker's disk" in warning.text
    told.take()
    told.trajectory.end(stopped=True)
    assert told.of(Checkpoint)[-1].step == told.of(Snapshot)[-1].step == 5


def test_a_trial_that_cannot_be_kept_at_its_end_is_not_called_finished(tmp_path, no_room):
    told = Told(tmp_path, checkpoint_seconds=60)
    told.take(2)
    with no_room, pytest.raises(CannotWrite, match="checkpoint at step 2"):
        told.trajectory.end(stopped=True)
