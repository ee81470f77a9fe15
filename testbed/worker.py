"""A real worker in its own process; its runners, which are children of it or of its fork server, are found in /proc."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.leaks import expect_no_secrets, passwords_of
from testbed.server import Server, as_service, wait_for


@dataclass
class Worker:
    """A worker; `stopping` once it was asked to shut down."""

    process: subprocess.Popen[bytes]
    log: Path
    stopping: bool = False

    @property
    def pid(self) -> int:
        return self.process.pid

    def runners(self) -> list[int]:
        """The living processes that run a trial."""
        return self._descendants("nestor-runner")

    def waiting(self) -> list[int]:
        """The standby runners."""
        return self._descendants("nestor-standby")

    def fork_server(self) -> int | None:
        """The process that forks the runners, if it runs."""
        return next((pid for pid in children(self.pid) if name(pid) == "nestor-forks"), None)

    def _descendants(self, named: str) -> list[int]:
        server = self.fork_server()
        found = children(self.pid) + (children(server) if server else [])
        return [pid for pid in found if name(pid) == named]

    def stop(self, *, timeout: float = 20) -> int:
        """SIGTERM, as an operator would; the exit code."""
        self.stopping = True
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def children(pid: int) -> list[int]:
    """The children of a process, zombies included; none if it is gone."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):  # a thread that has just ended
                found += map(int, (task / "children").read_text().split())
    return found


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
    environment["NESTOR_DATABASE_URL"] = as_service("worker", ours.database_url)
    with tempfile.TemporaryDirectory(prefix="nestor-worker-") as home:
        environment |= {"NESTOR_THREADS": "1", "NESTOR_CACHE_DIR": str(Path(home, "cache"))}
        environment |= {name: str(value) for name, value in env.items()}
        log = Path(home, "worker.log")
        with log.open("ab") as file:
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
        expect_no_secrets([log], passwords_of(environment))
