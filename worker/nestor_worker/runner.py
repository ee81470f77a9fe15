"""One trial in a process of its own: `python -m nestor_worker.runner WORKDIR`.

It has no credentials and no connection to anything but its supervisor: it reads files, says JSON lines on what was
its standard output, hears them on its standard input, and dies with its supervisor.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from nestor_worker import channel, workdir
from nestor_worker.channel import Checkpoint, Ended, Failed, Said, Snapshot, Started, Stepped
from nestor_worker.snapshots import Snapshots

if TYPE_CHECKING:
    from nestor_engine import Bilevel, Config, Data, State, Step

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Line:
    """The runner's end of the channel."""

    def __init__(self) -> None:
        # What a library prints must not be taken for a message: from here on, standard output is standard error.
        self._out: BinaryIO = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        self.stopping = threading.Event()
        threading.Thread(target=self._listen, name="supervisor", daemon=True).start()

    def say(self, message: channel.Message) -> None:
        # A pipe takes large lines in several pieces, and an unbuffered write may return early.
        rest = memoryview(channel.encode(message))
        while rest:
            rest = rest[self._out.write(rest) :]

    def _listen(self) -> None:
        try:
            for message in channel.messages(sys.stdin.buffer):
                if isinstance(message, channel.Stop):
                    self.stopping.set()
        finally:
            os._exit(1)  # the supervisor is gone: nobody would record what comes


def main() -> None:
    directory = Path(sys.argv[1])
    _die_with_parent()
    line = Line()
    try:
        _run(directory, workdir.Spec.read(directory), line)
    except Exception as error:
        traceback.print_exc()
        line.say(_failure(error))
    # Not sys.exit: threads of libraries must not hold up a process whose work is done and told.
    sys.stderr.flush()
    os._exit(0)


def _run(directory: Path, spec: workdir.Spec, line: Line) -> None:
    import torch

    from nestor_engine import State, optimise, restore

    torch.set_num_threads(spec.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = restore(spec.config)
    bilevel, data = _problem(directory, spec, config)
    bilevel = _warm(bilevel, directory, spec)
    bilevel, data = bilevel.to(device), data.to(device)
    path = directory / workdir.CHECKPOINT
    state = State.load(path.read_bytes()).to(device) if path.exists() else None

    trajectory = Trajectory(directory, spec, config, line, bilevel)
    trajectory.begin(state, device)
    for step in optimise(bilevel, data, config, state):
        trajectory.take(step)
        if line.stopping.is_set():
            break
    trajectory.end(stopped=line.stopping.is_set())


def _problem(directory: Path, spec: workdir.Spec, config: Config) -> tuple[Bilevel, Data]:
    if spec.preset is not None:
        from nestor.schemas import Preset
        from nestor_worker import presets

        problem = presets.build(Preset.model_validate(spec.preset), seed=config.seed)
        return problem.bilevel(), problem.data

    from nestor_engine import Data
    from nestor_engine.program import load

    files = {split: directory / workdir.split_file(split) for split in workdir.SPLITS}
    bilevel = load((directory / workdir.GRAPHS).read_bytes(), (directory / workdir.TENSORS).read_bytes())
    return bilevel, Data.load({split: path.read_bytes() for split, path in files.items() if path.exists()})


def _warm(bilevel: Bilevel, directory: Path, spec: workdir.Spec) -> Bilevel:
    import safetensors.torch

    from nestor_engine import State, start_from

    if spec.warm is None:
        return bilevel
    reached = (directory / workdir.START).read_bytes()
    return start_from(bilevel, State.load(reached) if spec.warm == "weights" else safetensors.torch.load(reached))


class Trajectory:
    """Says of each step what the supervisor must know: numbers at once, tensors when they are due."""

    def __init__(self, directory: Path, spec: workdir.Spec, config: Config, line: Line, bilevel: Bilevel) -> None:
        self._directory, self._spec, self._line, self._bilevel = directory, spec, line, bilevel
        nbytes = sum(value.nbytes for value in bilevel.hparams.values())
        self._snapshots = Snapshots(
            n_steps=config.n_steps, nbytes=nbytes, best_step=spec.best_step, best_value=spec.best_value
        )
        self._state: State | None = None  # after the last step
        self._best: State | None = None
        self._written = 0  # the step of the newest checkpoint
        self._snapped = 0  # the step of the newest snapshot
        self._checkpointed_at = time.monotonic()

    def begin(self, state: State | None, device: str) -> None:
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
        self._line.say(Started(hyperparameters, device, start))
        if start == 0:
            self._line.say(Snapshot(0, self._file("snapshot-0", _hparams(self._bilevel.hparams))))

    def take(self, step: Step) -> None:
        self._state = step.state
        self._line.say(Stepped(step.record()))
        for warning in step.warnings:
            self._line.say(Said(step.number, warning, "warning"))
        if self._snapshots.is_best(step.number, step.val_loss):
            self._best = step.state
        if self._snapshots.due(step.number):
            self._snap(step.state)
        if time.monotonic() - self._checkpointed_at >= self._spec.checkpoint_seconds:
            self._checkpoint()

    def end(self, *, stopped: bool) -> None:
        """Leave everything recorded: the last step and the best one, and a checkpoint to go on from."""
        step = 0 if self._state is None else self._state.step
        if self._state is not None and step > self._snapped:
            self._snap(self._state)
        if step > self._written:
            self._checkpoint()
        self._line.say(Ended(step, stopped))

    def _checkpoint(self) -> None:
        assert self._state is not None
        best, superfluous = self._snapshots.superseded()
        if best is not None and self._best is not None:
            self._snap(self._best, replaces=superfluous)
        step = self._state.step
        self._line.say(Checkpoint(step, self._file(f"checkpoint-{step}", self._state.save())))
        self._written, self._checkpointed_at = step, time.monotonic()

    def _snap(self, state: State, *, replaces: int | None = None) -> None:
        self._line.say(Snapshot(state.step, self._file(f"snapshot-{state.step}", _hparams(state.hparams)), replaces))
        self._snapped = max(self._snapped, state.step)

    def _file(self, name: str, data: bytes) -> str:
        return channel.write_file(self._directory, f"{name}.safetensors", data)


def _hparams(hparams: dict) -> bytes:
    import safetensors.torch

    return safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in hparams.items()})


def _failure(error: Exception) -> Failed:
    """The sentence that the user reads."""
    import torch

    from nestor_engine.errors import EngineError

    if isinstance(error, EngineError):
        name = type(error).__name__
        return Failed(error.code(), " ".join(_words(name)), str(error))
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        detail = "The device ran out of memory. Try a smaller model, smaller batches, or a larger device."
        return Failed("out-of-memory", "Out Of Memory", detail)
    cause = f"{type(error).__name__}: {error}"
    return Failed(
        "problem-failed",
        "Problem Failed",
        f"The problem's own functions failed with {cause}. Run problem.check() where the problem was written.",
    )


def _words(name: str) -> list[str]:
    import re

    return re.findall(r"[A-Z][a-z]*", name)


def _die_with_parent() -> None:
    """Have the kernel end this process with its supervisor, should a long operation keep the watcher from running."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


if __name__ == "__main__":
    main()
