"""One trial in a process of its own: `python -m nestor_worker.runner.main WORKDIR RANK`.

It has no credentials and no connection to anything but its supervisor: it reads files, sends JSON lines on what was
its standard output, receives them on its standard input, and dies with its supervisor. It is started before there is
a trial, loads what every trial needs, and waits for `Begin`. A trial on several devices is as many such processes, of
which only the first, of rank 0, sends messages.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from nestor import lifecycle
from nestor.program_format import GRAPHS_FILE, SPLITS, TENSORS_FILE, split_file
from nestor_worker import channel, workdir
from nestor_worker.channel import Failed
from nestor_worker.runner import sandbox
from nestor_worker.runner.recorder import CannotWrite, Trajectory
from nestor_worker.supervisor import prewarmed

if TYPE_CHECKING:
    from nestor_engine import Bilevel, Config, Data
    from nestor_engine.distributed import Group


class Connection:
    """The runner's end of the channel."""

    def __init__(self) -> None:
        # What a library prints must not be read as a message: from here on, standard output is standard error.
        self._out: BinaryIO = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        self._sending = threading.Lock()  # checkpoints are written in the background
        self.begun, self.stopping = threading.Event(), threading.Event()
        threading.Thread(target=self._listen, name="supervisor", daemon=True).start()

    def send(self, message: channel.Message) -> None:
        """Write one message; safe to call from several threads."""
        # A pipe takes large lines in several pieces, and an unbuffered write may return early.
        rest = memoryview(channel.encode(message))
        with self._sending:
            while rest:
                rest = rest[self._out.write(rest) :]

    def _listen(self) -> None:
        try:
            for message in channel.messages(sys.stdin.buffer):
                if isinstance(message, channel.Begin):
                    self.begun.set()
                elif isinstance(message, channel.Stop):
                    self.stopping.set()
        finally:
            os._exit(1)  # the supervisor is gone: nobody would record what comes


def main() -> None:
    """Wait for a trial, run it, and exit: 0, LOST_PEER, or 1 where the trial is not to blame."""
    directory, rank, code = Path(sys.argv[1]), int(sys.argv[2]), 0
    sandbox.contain(name="nestor-standby")
    supervisor = Connection()
    prewarmed.load(supervisor.begun)
    supervisor.begun.wait()
    sandbox.rename("nestor-runner")
    from nestor_engine.distributed import PeerLost

    try:
        _run(directory, workdir.Spec.read(directory), supervisor, rank)
    except PeerLost:
        traceback.print_exc()
        code = channel.LOST_PEER
    except CannotWrite:
        traceback.print_exc()
        code = 1  # the trial did not fail
    except Exception as error:
        traceback.print_exc()
        supervisor.send(_failure(error))
        code = 0 if rank == 0 else 1  # the supervisor reads the messages of rank 0 only
    # Not sys.exit: threads of libraries must not hold up a process whose work is done and reported.
    sys.stderr.flush()
    os._exit(code)


def _run(directory: Path, spec: workdir.Spec, supervisor: Connection, rank: int) -> None:
    import torch

    from nestor_engine import Config, State, optimize
    from nestor_engine.autodiff.trace_cache import TraceCache

    sandbox.limit_memory(spec.memory_bytes)
    torch.set_num_threads(spec.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":  # for resuming exactly; an operator that cannot repeat its bits is named in the trial's log
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch._C._set_deterministic_fill_uninitialized_memory(False)  # which costs time, and nothing here reads it
    config = Config(**spec.config)
    bilevel, data = _problem(directory, spec, config)
    bilevel = _warm(bilevel, directory, spec)
    bilevel, data = bilevel.to(device), data.to(device)
    path = directory / workdir.CHECKPOINT
    state = State.load(path.read_bytes()) if path.exists() else None

    kept = directory / workdir.TRACES
    traces = TraceCache(kept.read_bytes() if kept.exists() else b"")

    group = _join(directory, rank, spec.devices, device)
    if rank > 0:
        for _ in optimize(bilevel, data, config, state, group, traces):
            if group.any([False])[0]:
                break
        return
    trajectory = Trajectory(directory, spec, config, supervisor.send, bilevel)
    trajectory.begin(state, device)
    for step in optimize(bilevel, data, config, state, group, traces):
        trajectory.take(step)
        if group.any([supervisor.stopping.is_set()])[0]:
            break
    if (made := traces.save()) is not None:
        with contextlib.suppress(OSError):  # a full disk: then the next trial traces, too
            channel.write_file(directory, workdir.TRACES, made)
    trajectory.end(stopped=supervisor.stopping.is_set())


def _join(directory: Path, rank: int, size: int, device: str) -> Group:
    """Meet the other processes of the trial, by a file in the work directory and then over the loopback device."""
    import torch.distributed as dist

    from nestor_engine.distributed import ALONE, Group

    if size == 1:
        return ALONE
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{directory / 'peers'}", rank=rank, world_size=size)
    return Group(rank, size, device)


def _problem(directory: Path, spec: workdir.Spec, config: Config) -> tuple[Bilevel, Data]:
    if spec.preset is not None:
        from nestor.schemas import Preset
        from nestor_worker.runner import presets

        problem = presets.build(Preset.model_validate(spec.preset), seed=config.seed)
        return problem.bilevel(), problem.data

    from nestor_engine import Data
    from nestor_engine.program import load

    files = {split: directory / split_file(split) for split in SPLITS}
    bilevel = load((directory / GRAPHS_FILE).read_bytes(), (directory / TENSORS_FILE).read_bytes())
    return bilevel, Data.load({split: path.read_bytes() for split, path in files.items() if path.exists()})


def _warm(bilevel: Bilevel, directory: Path, spec: workdir.Spec) -> Bilevel:
    import safetensors.torch

    from nestor_engine import State, start_from

    if spec.warm is None:
        return bilevel
    reached = (directory / workdir.START).read_bytes()
    return start_from(bilevel, State.load(reached) if spec.warm == "weights" else safetensors.torch.load(reached))


def _failure(error: Exception) -> Failed:
    """Why the trial fails, with the sentence that the user reads."""
    from nestor_engine.errors import is_out_of_memory

    problem = lifecycle.failure(error, out_of_memory=is_out_of_memory(error)).problem()
    return Failed(problem["code"], problem["detail"], problem["context"])


if __name__ == "__main__":
    main()
