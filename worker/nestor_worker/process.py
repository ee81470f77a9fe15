"""A runner as its supervisor sees it: spawned without credentials, heard through a pipe, ended with its descendants.

It is spawned before it is needed: until `begin`, it loads what every trial needs and waits.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from nestor_worker import channel, workdir

# What a runner may know of the worker's environment. Everything else could hold a password.
KEPT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
BACKLOG = 1_000  # messages; a runner that is faster than the database waits
LOG = "runner.log"


def environment(directory: Path, *, threads: int, device: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name in KEPT}
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    visible = {"CUDA_VISIBLE_DEVICES": "" if device == "cpu" else device}
    # Threads that spin while they wait take the core from those they wait for: on a busy machine, 15 times slower.
    waiting = {"OMP_WAIT_POLICY": "PASSIVE"}
    return {**inherited, **counts, **waiting, **visible, "HOME": str(directory), "TMPDIR": str(directory)}


class Runner:
    """The process and its work directory, and its messages in `inbox`; None there means that it will say no more."""

    def __init__(self, *, threads: int, device: str) -> None:
        self._home = tempfile.TemporaryDirectory(prefix=workdir.prefix(os.getpid()), ignore_cleanup_errors=True)
        self.directory = directory = Path(self._home.name)
        self.inbox: queue.Queue[channel.Message | None] = queue.Queue(BACKLOG)
        self._broken: str | None = None
        self._closed = False
        with (directory / LOG).open("wb") as log:
            self._process = subprocess.Popen(
                # -P: a file in the work directory is never imported.
                [sys.executable, "-P", "-m", "nestor_worker.runner", str(directory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=directory,
                env=environment(directory, threads=threads, device=device),
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, name=f"runner-{self.pid}", daemon=True)
        self._reader.start()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def begin(self) -> None:
        """Run the trial that the work directory holds by now."""
        self.tell(channel.Begin())

    def tell(self, message: channel.Message) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, and its inbox says how
            self._process.stdin.write(channel.encode(message))
            self._process.stdin.flush()

    def close(self) -> None:
        """End it, if it has not ended, and everything that it started, and remove its work directory."""
        self._closed = True
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        while self._reader.is_alive():  # it may be waiting for room in the inbox
            with suppress(queue.Empty):
                self.inbox.get(timeout=0.05)
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        self._home.cleanup()

    def how_it_ended(self) -> str:
        """Why a runner that said no last word is gone, as the end of a sentence."""
        if self._broken is not None:
            return f"its runner said something unintelligible: {self._broken}"
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "its runner did not stop in time"
        if code == -signal.SIGKILL:
            return "its runner was killed (SIGKILL); when nobody did that by hand, the machine ran out of memory"
        if code < 0:
            return f"its runner was ended by signal {signal.Signals(-code).name}{self._last_words()}"
        return f"its runner ended with exit code {code}{self._last_words()}"

    def _last_words(self) -> str:
        lines = (self.directory / LOG).read_bytes()[-2_000:].decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f", after writing: {said[-1][:300]}" if said else ""

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for message in channel.messages(self._process.stdout):
                if self._closed:
                    break
                self.inbox.put(message)
        except channel.ChannelBroken as error:
            self._broken = str(error)
        self.inbox.put(None)
