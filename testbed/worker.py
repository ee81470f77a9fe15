"""A real worker in its own process; its runners are found in /proc."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.server import Server, wait_for


@dataclass
class Worker:
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def runners(self) -> list[int]:
        """The living children that run a trial."""
        return self._children("nestor-runner")

    def waiting(self) -> list[int]:
        """The standby runners."""
        return self._children("nestor-standby")

    def _children(self, named: str) -> list[int]:
        tasks = Path(f"/proc/{self.pid}/task")
        children = [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]
        return [pid for pid in children if name(pid) == named]

    def stop(self, *, timeout: float = 20) -> int:
        """SIGTERM, as an operator would; the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def command(pid: int) -> bytes:
    """The command line of a process; empty when it is gone or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def name(pid: int) -> str:
    """The name of the process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@contextmanager
def running_worker(server: Server, **env: Any) -> Iterator[Worker]:
    """`python -m nestor_worker` on `server`'s database and broker, ready to take trials."""
    ours = server.settings
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NESTOR_")}
    given = ours.model_dump(exclude_none=True)
    environment |= {f"NESTOR_{name.upper()}": str(value) for name, value in given.items()}
    with tempfile.TemporaryDirectory(prefix="nestor-worker-") as home:
        environment |= {"NESTOR_THREADS": "1", "NESTOR_CACHE_DIR": str(Path(home, "cache"))}
        environment |= {name: str(value) for name, value in env.items()}
        log = Path(home, "worker.log")
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "nestor_worker"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        worker = Worker(process, log)
        try:
            wait_for(lambda: process.poll() is not None or b" is ready" in log.read_bytes(), "the worker")
            assert process.poll() is None, log.read_text()
            yield worker
        finally:
            if process.poll() is None:
                try:
                    worker.stop()
                except subprocess.TimeoutExpired:
                    worker.kill()
                    raise
