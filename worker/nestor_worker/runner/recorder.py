"""What a runner reports of its trial: numbers at once, tensors when due, checkpoints in the background."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nestor import lifecycle
from nestor_worker import channel, workdir
from nestor_worker.channel import Checkpoint, Ended, LogLine, Snapshot, Started, Stepped
from nestor_worker.runner.snapshot_policy import Snapshots

if TYPE_CHECKING:
    from torch import Tensor

    from nestor.options import Config
    from nestor_engine import Bilevel, State, Step

MAX_CHECKPOINT_DUTY_CYCLE = 0.02  # the fraction of the runner's time that checkpoints may cost


class CannotWrite(Exception):
    """There is no room for what must be kept: the trial did not cause it, and can go on elsewhere."""


class BackgroundCheckpointer:
    """Runs one job at a time in a thread; all jobs together take at most MAX_CHECKPOINT_DUTY_CYCLE of the time.

    A job's cost is its own processor time: that is what it takes from a training on the same cores.
    """

    def __init__(self, least_seconds: float) -> None:
        self._least = least_seconds
        self._due_at = time.monotonic() + least_seconds
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def is_due(self) -> bool:
        """Whether the next job may start."""
        return time.monotonic() >= self._due_at and not (self._thread is not None and self._thread.is_alive())

    def start(self, job: Callable[[], None]) -> None:
        """Run `job` in the background, once the one under way has finished."""
        self.finish()
        self._thread = threading.Thread(target=self._run, args=(job,), name="checkpoint", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the job under way; what it raised is raised here."""
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
        self._due_at = time.monotonic() + max(self._least, time.thread_time() / MAX_CHECKPOINT_DUTY_CYCLE)


class Trajectory:
    """Reports one attempt: `begin`, `take` after each step, `end`."""

    def __init__(
        self,
        directory: Path,
        spec: workdir.Spec,
        config: Config,
        send: Callable[[channel.Message], None],
        bilevel: Bilevel,
    ) -> None:
        self._directory, self._send, self._bilevel = directory, send, bilevel
        self._n_steps = config.n_steps
        nbytes = sum(value.nbytes for value in bilevel.hparams.values())
        self._snapshots = Snapshots(
            n_steps=config.n_steps, nbytes=nbytes, best_step=spec.best_step, best_value=spec.best_value
        )
        self._checkpointer = BackgroundCheckpointer(spec.checkpoint_seconds)
        self._state: State | None = None  # after the last step
        self._best: tuple[int, dict[str, Tensor]] | None = None  # not its state, which is many times as large
        self._written = 0  # the step of the newest checkpoint
        self._snapped = 0  # the step of the newest snapshot
        self._full = False  # whether the last attempt to write found no room

    def begin(self, state: State | None, device: str) -> None:
        """Report where the attempt starts, and at the beginning the initial hyperparameters."""
        self._state = state
        start = 0 if state is None else state.step
        self._written = self._snapped = start
        hyperparameters = [
            {
                "name": name,
                "shape": list(value.shape),
                "dtype": str(value.dtype).removeprefix("torch."),
                "transform": self._bilevel.transforms.get(name, "identity"),
            }
            for name, value in self._bilevel.hparams.items()
        ]
        self._send(Started(hyperparameters, device, start))
        if start == 0:
            self._send(Snapshot(0, self._file("snapshot-0", _saved(self._bilevel.hparams))))

    def take(self, step: Step) -> None:
        """Report one step, and write what is due with it."""
        self._state = step.state
        self._send(Stepped(step.record()))
        if self._snapshots.is_best(step.number, step.value):
            self._best = step.number, step.state.hparams
        if self._snapshots.due(step.number):
            self._if_there_is_room(
                step.number, lambda: self._snap(step.number, step.state.hparams, self._snapshots.evicted(step.number))
            )
            self._snapped = step.number
        for warning in step.warnings:
            self._send(LogLine(step.number, warning, "warning"))
        if self._checkpointer.is_due:
            # The loop replaces tensors and never writes into them, so what is handed over stays what it is.
            write = self._checkpoint(step.state)
            self._checkpointer.start(lambda: self._if_there_is_room(step.number, write))

    def end(self, *, stopped: bool) -> None:
        """Leave everything recorded: the last step and the best one, and a checkpoint to go on from.

        Raises:
            CannotWrite: there is no room for it.
        """
        self._checkpointer.finish()
        step = 0 if self._state is None else self._state.step
        try:
            if self._state is not None and step > self._snapped:
                self._snap(step, self._state.hparams, [])
            if self._state is not None and step > self._written:
                self._checkpoint(self._state)()
        except OSError as error:
            raise CannotWrite(f"the checkpoint at step {step} could not be written: {error}") from error
        self._send(Ended(step, stopped, "" if stopped else lifecycle.why_complete(step, self._n_steps)))

    def _if_there_is_room(self, step: int, write: Callable[[], None]) -> None:
        """A full disk does not stop the training; the user is told, once."""
        try:
            write()
        except OSError as error:
            if not self._full:
                text = f"nothing can be kept at the moment: {error}. Training goes on; make room on the worker's disk."
                self._send(LogLine(step, text, "warning"))
            self._full = True
        else:
            self._full = False

    def _checkpoint(self, state: State) -> Callable[[], None]:
        """A job that writes the best step's snapshot and a checkpoint at `state`, so that both are recorded."""
        best, (number, superfluous) = self._best, self._snapshots.superseded()

        def write() -> None:
            if number is not None and best is not None:
                self._snap(*best, superfluous)
            self._send(Checkpoint(state.step, self._file(f"checkpoint-{state.step}", state.save())))
            self._snapshots.recorded(best and best[0])
            self._written = state.step

        return write

    def _snap(self, step: int, hparams: dict[str, Tensor], replaces: list[int]) -> None:
        self._send(Snapshot(step, self._file(f"snapshot-{step}", _saved(hparams)), replaces))

    def _file(self, name: str, data: bytes) -> str:
        return channel.write_file(self._directory, f"{name}.safetensors", data)


def _saved(hparams: dict[str, Tensor]) -> bytes:
    import safetensors.torch

    return safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in hparams.items()})
