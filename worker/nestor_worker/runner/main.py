"""One trial in its own process: `python -m nestor_worker.runner.main WORKDIR RANK`.

It has no credentials and communicates only with its supervisor: it reads files, sends JSON lines on its original
standard output, receives them on its standard input, and ends with its supervisor. It is started before there is a
trial, loads what every trial needs, and waits for `Begin`; a fork server has loaded it for all runners that it forks. A
trial on several devices has one such process per device, of which only the first, with rank 0, sends messages.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from nestor import lifecycle
from nestor.program_format import GRAPHS_FILE, SPLITS, TENSORS_FILE, split_file
from nestor_worker import channel, containment, workdir
from nestor_worker.channel import Failed, LogLine
from nestor_worker.containment import process
from nestor_worker.runner import preload
from nestor_worker.runner.recorder import CannotWrite, TrialRecorder

if TYPE_CHECKING:
    from nestor_engine import Bilevel, Config, Data
    from nestor_engine.data.mapped import MappedColumn
    from nestor_engine.distributed import Group


class Connection:
    """The runner's end of the channel.

    Attributes:
        stop: the newest message `Stop`.
    """

    def __init__(self) -> None:
        # What libraries print must not be read as messages, so from here on standard output is standard error.
        self._out: BinaryIO = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        self._sending = threading.Lock()  # a background thread sends checkpoints
        self.stop: channel.Stop | None = None
        self._messages = channel.messages(sys.stdin.buffer)

    def has_begun(self) -> bool:
        """Whether `wait` would return at once."""
        return bool(select.select([sys.stdin], [], [], 0)[0])

    def wait(self) -> None:
        """Wait for the message `Begin`. Until then there is no thread, because some walls bind single threads."""
        if not isinstance(next(self._messages, None), channel.Begin):
            os._exit(1)  # the supervisor has ended, or needs this process no more

    def listen(self) -> None:
        """Receive the other messages in a thread."""
        threading.Thread(target=self._listen, name="supervisor", daemon=True).start()

    def send(self, message: channel.Message) -> None:
        """Write one message; safe to call from several threads."""
        # A pipe accepts large lines in several pieces, and an unbuffered write may return early.
        rest = memoryview(channel.encode(message))
        with self._sending:
            while rest:
                rest = rest[self._out.write(rest) :]

    def ends(self) -> bool:
        """Whether the user ends the training after the present step."""
        return self.stop is not None and self.stop.evaluate

    def _listen(self) -> None:
        try:
            for message in self._messages:
                if isinstance(message, channel.Stop):
                    self.stop = message
        finally:
            os._exit(1)  # the supervisor has ended, so nothing would be recorded


def run(directory: Path, rank: int, *, is_loaded: bool) -> None:
    """Wait for a trial, run it, and exit with 0, LOST_PEER, or 1 if the cause is not the trial.

    Args:
        is_loaded: this process was forked from one that has loaded what every trial needs.
    """
    code = 0
    process.prepare(name="nestor-standby")
    supervisor = Connection()
    if not is_loaded:
        preload.load(supervisor.has_begun)
    supervisor.wait()
    process.rename("nestor-runner")
    from nestor_engine.distributed import PeerLost

    spec = workdir.WorkSpec.read(directory)
    _contain(directory, spec)
    supervisor.listen()
    try:
        _run(directory, spec, supervisor, rank)
    except PeerLost:
        traceback.print_exc()
        code = channel.LOST_PEER
    except CannotWrite:
        traceback.print_exc()
        code = 1  # the trial did not fail
    except Exception as error:
        traceback.print_exc()
        supervisor.send(_failure(error))
        code = 0 if rank == 0 else 1  # the supervisor reads only the messages of rank 0
    # Not sys.exit, which waits for threads of libraries.
    sys.stderr.flush()
    os._exit(code)


def _contain(directory: Path, spec: workdir.WorkSpec) -> None:
    """Give up what the trial does not need, before anything that a user submitted is read."""
    if not spec.is_contained:
        return process.limit(spec.memory_bytes, spec.file_bytes)
    referenced = [file.path for files in workdir.read_references(directory).values() for file in files]
    needs = containment.Needs(
        readable=tuple(map(Path, (*referenced, *spec.roots))),
        devices=spec.devices,
        on_gpu=os.environ.get("CUDA_VISIBLE_DEVICES", "") != "",
        memory_bytes=spec.memory_bytes,
        file_bytes=spec.file_bytes,
    )
    containment.enter(directory, needs)


def _run(directory: Path, spec: workdir.WorkSpec, supervisor: Connection, rank: int) -> None:
    import torch

    from nestor_engine import Config, State, optimize
    from nestor_engine.autodiff.trace_cache import TraceCache
    from nestor_engine.retraining import with_predictions

    torch.set_num_threads(spec.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":  # to resume exactly; the trial's log names operators that are not deterministic
        torch.use_deterministic_algorithms(True, warn_only=True)
        # It costs time, and nothing here reads such memory. torch does not annotate its public name.
        torch._C._set_deterministic_fill_uninitialized_memory(False)  # pyright: ignore[reportPrivateUsage]
    config = Config(**spec.config)
    path = directory / workdir.CHECKPOINT
    state = State.load(path.read_bytes()) if path.exists() else None
    bilevel, data, notes = _problem(directory, spec, config, unchecked=state is None and rank == 0)
    bilevel = _warm_start(bilevel, directory, spec)
    bilevel, data = bilevel.to(device), data.to(device)

    path = directory / workdir.TRACES
    traces = TraceCache(path.read_bytes() if path.exists() else b"")

    group = _join(directory, rank, spec.devices, device)
    if rank > 0:
        for _ in optimize(bilevel, data, config, state, group, traces):
            if group.any([False])[0]:
                break
        return
    recorder = TrialRecorder(directory, spec, config, supervisor.send, bilevel)
    recorder.begin(state, device)
    for level, note in notes:
        supervisor.send(LogLine(0 if state is None else state.step, note, level))

    def is_ending() -> bool:
        return supervisor.ends() or recorder.time_is_up

    try:
        steps = optimize(bilevel, data, config, state, group, traces, is_ending)
        if spec.nudge is not None and spec.nudge["number"] is None:
            steps = with_predictions(steps, bilevel, config.n_steps, size=spec.nudge["size"], seed=config.seed)
        for step in steps:
            recorder.record(step)
            stop, is_evaluated = supervisor.stop, step.value is not None
            # The last step before an end by the user, or by the clock, is one that was evaluated.
            ends = stop is not None and (is_evaluated or not stop.evaluate)
            if group.any([ends or (recorder.time_is_up and is_evaluated)])[0]:
                break
    except Exception:
        recorder.save_best()
        raise
    if (written := traces.save()) is not None:
        with contextlib.suppress(OSError):  # on a full disk; then the next trial makes its own traces
            channel.write_file(directory, workdir.TRACES, written)
    recorder.end(stopped=supervisor.stop is not None)


def _join(directory: Path, rank: int, size: int, device: str) -> Group:
    """Connect to the other processes of the trial: by a file in the work directory, then over the loopback device."""
    import torch.distributed as dist

    from nestor_engine.distributed import ALONE, Group

    if size == 1:
        return ALONE
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{directory / 'peers'}", rank=rank, world_size=size)
    return Group(rank, size, device)


def _problem(
    directory: Path, spec: workdir.WorkSpec, config: Config, *, unchecked: bool
) -> tuple[Bilevel, Data, list[tuple[channel.Level, str]]]:
    """The functions, the examples, and lines for the trial's log, with their levels.

    Args:
        unchecked: nobody has checked the problem, unless the client did: it is checked if a package made it.

    Raises:
        CheckFailed: what a package made cannot be trained.
    """
    if spec.preset is not None:
        from nestor.schemas import Preset
        from nestor_worker.runner import presets

        preset = Preset.model_validate(spec.preset)
        problem = presets.build(preset, seed=config.seed if preset.seed is None else preset.seed)
        return problem.bilevel(), problem.data, []
    if spec.entry_point is not None:
        from nestor.schemas import EntryPointProblem
        from nestor_engine import Problem
        from nestor_engine.problem import entry_points
        from nestor_engine.problem.validation.checks import check

        named = EntryPointProblem.model_validate(spec.entry_point)
        factory = entry_points.find(named.entry_point, where="on this worker")
        seed = config.seed if named.seed is None else named.seed
        built = entry_points.build(factory, named.params, seed=seed, folds=config.folds is not None)
        # Two workers may have different versions of the package.
        notes: list[tuple[channel.Level, str]] = [("info", f"the problem is of {factory.package}")]
        if unchecked and isinstance(built, Problem):
            report = check(built, config=config, ship=False)
            report.raise_errors()
            notes.extend(("warning", f"{finding.where}: {finding.sentence}") for finding in report.findings)
        return built.bilevel(), built.data, notes

    from nestor_engine import Data
    from nestor_engine.program import load

    files = {split: directory / split_file(split) for split in SPLITS}
    bilevel = load((directory / GRAPHS_FILE).read_bytes(), (directory / TENSORS_FILE).read_bytes())
    uploaded = {split: path.read_bytes() for split, path in files.items() if path.exists()}
    return bilevel, Data.load(uploaded, _mapped(directory)), []


def _mapped(directory: Path) -> dict[str, dict[str, MappedColumn]]:
    """The columns that lie in referenced files, by their splits."""
    from nestor.data.files import FileIdentity
    from nestor_engine.data.references import recorded_columns

    splits: dict[str, dict[str, MappedColumn]] = {}
    for split, files in workdir.read_references(directory).items():
        for file in files:
            identity = FileIdentity(file.path, file.size, file.mtime_ns, file.inode)
            splits.setdefault(split, {}).update(recorded_columns(file.uri, identity, file.columns))
    return splits


def _warm_start(bilevel: Bilevel, directory: Path, spec: workdir.WorkSpec) -> Bilevel:
    import safetensors.torch

    from nestor_engine import State, start_from
    from nestor_engine.retraining import nudged

    if spec.warm is not None:
        data = (directory / workdir.START).read_bytes()
        bilevel = start_from(bilevel, State.load(data) if spec.warm == "weights" else safetensors.torch.load(data))
    if spec.nudge is not None:
        bilevel = nudged(bilevel, spec.nudge["number"], size=spec.nudge["size"], seed=spec.config["seed"])
    if (path := directory / workdir.INITIAL).exists():
        # A package may be of another version on this worker; changes are counted from where the trial began.
        bilevel = start_from(bilevel, safetensors.torch.load(path.read_bytes()))
    return bilevel


def _failure(error: Exception) -> Failed:
    """The error as a message, with the sentence that the user reads."""
    problem = lifecycle.failure(error).problem()
    return Failed(problem["code"], problem["detail"], problem["context"])


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]), is_loaded=False)
