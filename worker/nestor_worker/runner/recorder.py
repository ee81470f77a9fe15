"""Reports a runner's trial: numbers after each step, tensors when they are due, checkpoints in the background."""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nestor import lifecycle
from nestor.schemas import Distributions
from nestor_worker import channel, workdir
from nestor_worker.channel import Checkpoint, Distributed, Ended, LogLine, Result, Snapshot, Started, Stepped
from nestor_worker.runner.recorded_entries import recorded_entries
from nestor_worker.runner.snapshot_policy import SnapshotPolicy

if TYPE_CHECKING:
    from torch import Tensor

    from nestor.options import Config
    from nestor_engine import Bilevel, State, Step

MAX_CHECKPOINT_DUTY_CYCLE = 0.02  # the fraction of the runner's time that checkpoints may take


# A message has all distributions of a step, each in up to 1,300 bytes, and `channel.MAX_LINE` bytes in all.
MOST_WITH_DISTRIBUTIONS = 6_000


class CannotWrite(Exception):
    """A checkpoint cannot be written, for example on a full disk. The trial can continue on another worker."""


class BackgroundCheckpointer:
    """Runs one job at a time in a thread. All jobs together take at most MAX_CHECKPOINT_DUTY_CYCLE of the time.

    The cost of a job is its processor time, which it takes from the training on the same cores.

    Args:
        min_seconds: between the end of a job and the start of the next one.
    """

    def __init__(self, min_seconds: float) -> None:
        self._min_seconds = min_seconds
        self._due_at = time.monotonic() + min_seconds
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def is_due(self) -> bool:
        """Whether the next job may start."""
        return time.monotonic() >= self._due_at and not (self._thread is not None and self._thread.is_alive())

    def start(self, job: Callable[[], None]) -> None:
        """Run `job` in the background, after the current job has finished."""
        self.finish()
        self._thread = threading.Thread(target=self._run, args=(job,), name="checkpoint", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the current job, and raise the error that a job raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            raise self._error

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            self._error = error
        self._due_at = time.monotonic() + max(self._min_seconds, time.thread_time() / MAX_CHECKPOINT_DUTY_CYCLE)


class TrialRecorder:
    """Reports one attempt. Call `begin`, `record` after each step, and `end`."""

    def __init__(
        self,
        directory: Path,
        spec: workdir.WorkSpec,
        config: Config,
        send: Callable[[channel.Message], None],
        bilevel: Bilevel,
    ) -> None:
        self._directory, self._send, self._bilevel = directory, send, bilevel
        self._n_steps = config.n_steps
        self._started_at = time.monotonic() - spec.seconds  # as if it had trained without a pause
        self._timeout = math.inf if spec.timeout is None else spec.timeout
        nbytes = sum(value.nbytes for value in bilevel.hparams.values())
        self._ranking = spec.ranking
        self._snapshots = SnapshotPolicy(
            n_steps=config.n_steps,
            nbytes=nbytes,
            best_step=spec.best_step,
            best_value=spec.best_value,
            ranking=spec.ranking,
        )
        self._checkpointer = BackgroundCheckpointer(spec.checkpoint_seconds)
        self._state: State | None = None  # after the last step
        # The result of the best step of this attempt, and its hypergradient, on the CPU.
        self._best: tuple[State, dict[str, Tensor]] | None = None
        self._recorded_result: int | None = None  # the step of the newest result of this attempt
        self._last_checkpoint = 0  # the step of the newest checkpoint
        self._last_snapshot = 0  # the step of the newest snapshot
        self._last_distributed = 0  # the step of the newest distributions
        self._with_distributions = lifecycle.count_with_distributions(value.shape for value in bilevel.hparams.values())
        self._cannot_write = False  # the last write failed
        self._files = itertools.count()

    def begin(self, state: State | None, device: str) -> None:
        """Report where the attempt starts, and the initial hyperparameters if no step was taken before.

        Args:
            state: from which the attempt continues; None for a new trial.
            device: "cpu" or "cuda", for the trial's log.
        """
        self._state = state
        start = 0 if state is None else state.step
        self._last_checkpoint = self._last_snapshot = self._last_distributed = start
        self._send(Started(self._bilevel.described()))  # before the first snapshot, whose readers need the transforms
        if start == 0:
            self._write_snapshot(0, self._bilevel.hparams, {}, [])
        self._send(LogLine(start, lifecycle.where_it_starts(device, start)))
        if start == 0:
            self._distribute(0, self._bilevel.hparams)

    def record(self, step: Step) -> None:
        """Report one step, and write the snapshot and start the checkpoint that are due.

        Raises:
            MetricUnknown: the study ranks its trials by a metric that the problem does not have.
        """
        self._state = step.state
        if step.value is not None:
            self._ranking.expect(step.metrics)
        self._send(Stepped(step.record(), self._seconds))
        if step.number % lifecycle.distribution_interval(step.number, self._with_distributions) == 0:
            self._distribute(step.number, step.state.hparams)
        if self._snapshots.is_best(step.number, step.value_of(self._ranking.metric)):
            gradient = {name: value.cpu() for name, value in step.state.previous.items()}
            self._best = (step.state.result(), gradient)
        if self._snapshots.due(step.number):
            evicted = self._snapshots.evicted(step.number)
            state = step.state
            write = partial(self._write_snapshot, step.number, state.hparams, state.previous, evicted)
            self._try_to_write(step.number, write)
            self._last_snapshot = step.number
        for warning in step.warnings:
            self._send(LogLine(step.number, warning, "warning"))
        if self._checkpointer.is_due:
            # The loop replaces tensors and never changes them in place, so another thread can read them.
            write = self._checkpoint(step.state)
            self._checkpointer.start(lambda: self._try_to_write(step.number, write))

    def end(self, *, stopped: bool) -> None:
        """Write the last snapshot, the best one and a checkpoint if they are missing, and report the end.

        Raises:
            CannotWrite: they cannot be written.
        """
        time_is_up = self.time_is_up
        self._checkpointer.finish()
        step = 0 if self._state is None else self._state.step
        if self._state is not None and step > self._last_distributed:
            self._distribute(step, self._state.hparams)
        try:
            if self._state is not None and step > self._last_snapshot:
                self._write_snapshot(step, self._state.hparams, self._state.previous, [])
            if self._state is not None and step > self._last_checkpoint:
                self._checkpoint(self._state)()
        except OSError as error:
            raise CannotWrite(f"the checkpoint at step {step} could not be written: {error}") from error
        stopped = stopped and not time_is_up
        why = lifecycle.why_complete(step, self._n_steps, time_is_up=time_is_up)
        self._send(Ended(step, stopped, "" if stopped else why))

    @property
    def time_is_up(self) -> bool:
        """Whether the trial has trained for its whole time, with earlier attempts."""
        return self._seconds >= self._timeout

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._started_at

    def save_best(self) -> None:
        """Write the best step's snapshot and result before the trial fails; a checkpoint would repeat the failure."""
        with contextlib.suppress(Exception):  # the failure itself is reported
            self._checkpointer.finish()
            self._best_writer()()

    def _try_to_write(self, step: int, write: Callable[[], None]) -> None:
        """A full disk does not stop the training. The trial's log says so, once."""
        try:
            write()
        except OSError as error:
            if not self._cannot_write:
                text = f"snapshots and checkpoints cannot be written: {error}. Training continues. "
                self._send(LogLine(step, text + "Free some space on the worker's disk.", "warning"))
            self._cannot_write = True
        else:
            self._cannot_write = False

    def _checkpoint(self, state: State) -> Callable[[], None]:
        """A job that writes the best step's files and a checkpoint at `state`, so that all are recorded."""
        write_best = self._best_writer()

        def write() -> None:
            write_best()
            self._send(Checkpoint(state.step, self._file(f"checkpoint-{state.step}", state.save())))
            self._last_checkpoint = state.step

        return write

    def _best_writer(self) -> Callable[[], None]:
        """A job that writes the snapshot and the result of the best step so far, unless they are recorded."""
        best, (number, replaced) = self._best, self._snapshots.superseded()

        def write() -> None:
            if best is None:
                return
            result, gradient = best
            if number is not None:
                self._write_snapshot(result.step, result.hparams, gradient, replaced)
            if result.step != self._recorded_result:
                self._send(Result(result.step, self._file(f"result-{result.step}", result.save())))
            self._recorded_result = result.step
            self._snapshots.recorded(result.step)

        return write

    def _distribute(self, step: int, hparams: dict[str, Tensor]) -> None:
        if 0 < self._with_distributions <= MOST_WITH_DISTRIBUTIONS:
            from nestor_engine.hparams.distributions import distributions

            self._send(Distributed(Distributions(number=step, tensors=distributions(hparams)).model_dump(mode="json")))
        self._last_distributed = step

    def _write_snapshot(
        self, step: int, hparams: dict[str, Tensor], gradient: dict[str, Tensor], replaces: list[int]
    ) -> None:
        file = self._file(f"snapshot-{step}", self._saved(hparams))
        recorded = recorded_entries(hparams, self._bilevel.hparams, gradient, self._bilevel.transforms)
        self._send(Snapshot(step, file, replaces, recorded))

    def _saved(self, hparams: dict[str, Tensor]) -> bytes:
        import safetensors.torch

        tensors = {name: value.detach().cpu().contiguous() for name, value in hparams.items()}
        transforms = {name: self._bilevel.transforms.get(name, "identity") for name in self._bilevel.hparams}
        return safetensors.torch.save(tensors, lifecycle.snapshot_metadata(transforms))

    def _file(self, name: str, data: bytes) -> str:
        # Each file has a name of its own. The supervisor deletes a file after it has recorded it. If a step is written
        # twice, when it is due and as the best step that replaces another, it would delete the second file.
        return channel.write_file(self._directory, f"{name}-{next(self._files)}.safetensors", data)
