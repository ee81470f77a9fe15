"""Snapshots and checkpoints during training: in the background, rarely enough, and never partial."""

from __future__ import annotations

import resource
import threading
import time

import pytest
import torch

from nestor.errors import MetricUnknown
from nestor.ranking import Ranking
from nestor.schemas import Preset
from nestor_engine import Config, State, optimize
from nestor_worker.channel import Checkpoint, Ended, LogLine, Result, Snapshot, Stepped
from nestor_worker.runner import presets
from nestor_worker.runner.recorder import MAX_CHECKPOINT_DUTY_CYCLE, BackgroundCheckpointer, CannotWrite, TrialRecorder
from nestor_worker.supervisor.buffer import RecordBuffer
from nestor_worker.workdir import WorkSpec

PRESET = {"model": {"kind": "mlp", "hidden": [8]}, "train_size": 100, "val_size": 50}


class RecordedTrajectory:
    """A trajectory of a small problem, and its messages."""

    def __init__(
        self, directory, *, checkpoint_seconds: float, timeout: float | None = None, seconds: float = 0.0, **options
    ) -> None:
        problem = presets.build(Preset.model_validate(PRESET), seed=0)
        config = Config(**{"n_steps": 100, **options})
        how = {"threads": 1, "checkpoint_seconds": checkpoint_seconds, "metric": "accuracy", "direction": "maximize"}
        spec = WorkSpec({}, PRESET, None, None, None, timeout=timeout, seconds=seconds, **how)
        self.directory, self.messages, self.steps = directory, [], []
        self.trajectory = TrialRecorder(directory, spec, config, self.messages.append, problem.bilevel())
        self.trajectory.begin(None, "cpu")
        self._steps = optimize(problem.bilevel(), problem.data, config)

    def take(self, n: int = 1) -> None:
        for _ in range(n):
            self.steps.append(next(self._steps))
            self.trajectory.record(self.steps[-1])

    def of(self, kind: type) -> list:
        return [message for message in self.messages if isinstance(message, kind)]


@pytest.fixture
def no_room():
    """Within this context, no file can grow beyond a few bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Full:
        def __enter__(self):
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))

        def __exit__(self, *_):
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return Full()


def test_a_checkpoint_holds_the_step_at_which_it_was_due_even_if_training_has_continued(tmp_path):
    recorded = RecordedTrajectory(tmp_path, checkpoint_seconds=1e-9)
    recorded.take(5)
    recorded.trajectory.end(stopped=True)
    kept = recorded.of(Checkpoint)
    assert kept[-1].step == 5
    for checkpoint in kept:
        assert State.load((tmp_path / checkpoint.file).read_bytes()).step == checkpoint.step


def test_the_weights_of_the_best_step_are_written_before_each_checkpoint_behind_it(tmp_path):
    recorded = RecordedTrajectory(tmp_path, checkpoint_seconds=1e-9, evaluate_every=2)
    for _ in range(20):
        recorded.trajectory._checkpointer._due_at = 0.0  # whatever the last one cost
        recorded.take()
        recorded.trajectory._checkpointer.finish()
    recorded.trajectory.end(stopped=True)
    best, written, seen = None, None, list[int]()
    values = {step.number: step.metrics.get("accuracy") for step in recorded.steps}
    for message in recorded.messages:
        if isinstance(message, Result):
            state = State.load((tmp_path / message.file).read_bytes())
            assert state.is_result
            written = state.step
            seen.append(message.step)
            ours = recorded.steps[message.step - 1].state
            assert all(torch.equal(state.params[name], value) for name, value in ours.params.items())
            assert state.hparams.keys() == ours.hparams.keys()
        if isinstance(message, Checkpoint):
            ranked = [number for number in range(1, message.step + 1) if values[number] is not None]
            best = max(ranked, key=lambda number: values[number], default=None)
            assert written == best
    assert len(seen) == len(set(seen)) > 1


def test_the_weights_of_the_best_step_are_kept_when_the_trial_fails(tmp_path):
    recorded = RecordedTrajectory(tmp_path, checkpoint_seconds=60, evaluate_every=1)
    recorded.take(3)
    recorded.trajectory.save_best()
    best = max(recorded.steps, key=lambda step: step.metrics["accuracy"])
    assert [message.step for message in recorded.of(Result)] == [best.number]
    assert recorded.of(Checkpoint) == []


def test_a_metric_that_the_problem_lacks_fails_the_trial_at_the_first_evaluation(tmp_path):
    recorded = RecordedTrajectory(tmp_path, checkpoint_seconds=60, evaluate_every=2)
    recorded.trajectory._ranking = Ranking("f1", "maximize")
    recorded.take()
    with pytest.raises(MetricUnknown, match="the metrics of the problem are: 'accuracy'"):
        recorded.take()


def test_checkpoints_do_not_hold_up_the_training():
    checkpointer, go_on = BackgroundCheckpointer(1e-9), threading.Event()

    def wait() -> None:
        go_on.wait()

    assert checkpointer.is_due
    checkpointer.start(wait)
    assert not checkpointer.is_due  # one at a time
    go_on.set()
    checkpointer.finish()


def test_the_more_a_checkpoint_costs_the_fewer_are_written():
    checkpointer = BackgroundCheckpointer(1e-9)

    def dear() -> None:
        while time.thread_time() < 0.05:
            pass

    checkpointer.start(dear)
    checkpointer.finish()
    assert checkpointer._due_at - time.monotonic() > 0.05 / MAX_CHECKPOINT_DUTY_CYCLE - 1
    assert not checkpointer.is_due


def test_a_failure_in_the_background_fails_the_trial():
    checkpointer = BackgroundCheckpointer(1e-9)

    def fail() -> None:
        raise ZeroDivisionError

    checkpointer.start(fail)
    with pytest.raises(ZeroDivisionError):
        checkpointer.finish()


def test_a_full_disk_prevents_snapshots_and_checkpoints_but_training_continues(tmp_path, no_room):
    recorded = RecordedTrajectory(tmp_path, checkpoint_seconds=1e-9)
    recorded.take()
    recorded.trajectory._checkpointer.finish()
    before = sorted(path.name for path in tmp_path.iterdir())
    kept = len(recorded.of(Checkpoint))
    with no_room:
        recorded.take(3)
        recorded.trajectory._checkpointer.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert len(recorded.of(Checkpoint)) == kept
    (warning,) = [line for line in recorded.of(LogLine) if line.level == "warning"]
    assert "Free some space on the worker's disk" in warning.text
    recorded.take()
    recorded.trajectory.end(stopped=True)
    assert recorded.of(Checkpoint)[-1].step == recorded.of(Snapshot)[-1].step == 5


def test_a_trial_whose_last_checkpoint_cannot_be_written_is_not_finished(tmp_path, no_room):
    recorded = RecordedTrajectory(tmp_path, checkpoint_seconds=60)
    recorded.take(2)
    with no_room, pytest.raises(CannotWrite, match="checkpoint at step 2"):
        recorded.trajectory.end(stopped=True)


def test_a_trial_ends_after_the_step_in_which_its_time_is_up_counting_earlier_attempts(tmp_path):
    recorded = RecordedTrajectory(tmp_path, checkpoint_seconds=60, timeout=1_000.0, seconds=600.0)
    recorded.take(2)
    assert not recorded.trajectory.time_is_up
    seconds = [message.seconds for message in recorded.of(Stepped)]
    assert 600 < seconds[0] < seconds[1] < 700
    late = RecordedTrajectory(tmp_path, checkpoint_seconds=60, timeout=1_000.0, seconds=1_000.0)
    late.take()
    assert late.trajectory.time_is_up
    late.trajectory.end(stopped=True)
    assert late.of(Ended) == [Ended(1, stopped=False, why="its time is up")]
    assert [message.step for message in late.of(Checkpoint)] == [1]


def test_a_step_that_is_written_twice_has_two_files(tmp_path):
    """A trial lost an attempt: "'snapshot-3410.safetensors' cannot be read". Its step was due, and became the best."""
    recorded = RecordedTrajectory(tmp_path, checkpoint_seconds=1e9)
    recorded.take(1)
    hparams = recorded.steps[-1].state.hparams
    buffer = RecordBuffer(tmp_path, max_bytes=10**6)
    for _ in range(2):
        recorded.trajectory._write_snapshot(1, hparams, {}, [])
    first, second = recorded.of(Snapshot)[-2:]
    buffer.add(first)
    buffer.batch()
    buffer.add(second)
    buffer.recorded()
    assert [snapshot.step for snapshot in buffer.batch().snapshots] == [1]
