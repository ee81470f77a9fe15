"""The worker's side of its fork server: starts it, asks it for runners, and sees how they end."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from nestor_worker import forks, workdir
from nestor_worker.forks import ForkRequest

log = logging.getLogger(__name__)


class ForkedProcess:
    """A process that the fork server forks, with the interface of `subprocess.Popen` as far as runners need it.

    It may not exist yet: a fork server that still loads what runners need forks it later. Until then, its streams hold
    what is written to them.

    Attributes:
        stdin, stdout: our ends of its streams; stdout is None if it was not requested.
        returncode: as that of `Popen`; None until `poll` or `wait` has seen its end.
    """

    def __init__(self, stdin: IO[bytes], stdout: IO[bytes] | None, answers: socket.socket) -> None:
        self.stdin, self.stdout = stdin, stdout
        self.returncode: int | None = None
        self._answers = answers
        self._answers.setblocking(False)
        self._lock = threading.Lock()  # of the answers, whose order says what they are
        self._pid: int | None = None

    @property
    def pid(self) -> int:
        """Its process id, once it exists.

        Raises:
            ProcessLookupError: the fork server ended before.
        """
        while self._pid is None:
            if self.returncode is not None:
                raise ProcessLookupError("the fork server ended before it forked this process")
            self._receive(None)
        return self._pid

    @property
    def running_pid(self) -> int | None:
        """Its process id, without waiting; None if it does not exist yet, or has ended."""
        return self._pid if self.poll() is None else None

    def poll(self) -> int | None:
        """Its exit code; None if it has not ended."""
        while self.returncode is None and self._receive(0):
            pass
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended.

        Raises:
            TimeoutExpired: it has not ended in time.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not self._receive(left) and timeout is not None:
                raise subprocess.TimeoutExpired("a forked runner", timeout)
        return self.returncode

    def end(self) -> None:
        """Kill the process and its descendants. If it does not exist yet, it never will."""
        self.poll()
        if self._pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)
            self.wait()
        # A process that is being forked right now reads the end of its standard input and exits.
        with self._lock:
            if self.returncode is None:
                self.returncode = -signal.SIGKILL
            self._answers.close()
        with suppress(BrokenPipeError):
            self.stdin.close()

    def _receive(self, timeout: float | None) -> bool:
        """Whether another answer came in time: first the process id, then the exit code."""
        ready = select.poll()
        with self._lock:
            if self.returncode is not None:
                return True
            ready.register(self._answers, select.POLLIN)
        if not ready.poll(None if timeout is None else timeout * 1_000):
            return False
        with self._lock:
            if self.returncode is not None:
                return True
            try:
                answer = self._answers.recv(64)
            except BlockingIOError:  # another thread has received it
                return True
            if not answer:  # the fork server has ended, and the kernel killed what it had forked
                self.returncode = -signal.SIGKILL
            elif self._pid is None:
                self._pid = int(answer)
            else:
                self.returncode = int(answer)
        return True


class ForkServer:
    """The fork server of one worker. If it ends, the next request starts another one.

    Its runners are children of its process. If it is killed, they are killed with it, and their trials continue in
    other attempts.

    Args:
        environment: the variables of a process with the given directory. Runners get their own, but `ps` shows these.
    """

    def __init__(self, environment: Callable[[Path], dict[str, str]]) -> None:
        self._home = tempfile.TemporaryDirectory(prefix=workdir.prefix(os.getpid()), ignore_cleanup_errors=True)
        self._environment = environment(Path(self._home.name))
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start(self) -> None:
        """Start it, if it does not run. It loads what runners need before it answers the first request."""
        with self._lock:
            self._running()

    @property
    def pid(self) -> int | None:
        """The id of its newest process."""
        return None if self._process is None else self._process.pid

    def fork(self, request: ForkRequest, stdout: int, stderr: int) -> ForkedProcess:
        """Request a process. `stdout` is as the argument of `Popen`: PIPE or DEVNULL. `stderr` is a file descriptor.

        Raises:
            OSError: the fork server cannot be started.
        """
        answers, theirs = forks.socket_pair()
        in_read, in_write = os.pipe()
        out_read, out_write = os.pipe() if stdout == subprocess.PIPE else (None, os.open(os.devnull, os.O_WRONLY))
        files = [in_read, out_write, stderr, theirs.fileno()]
        try:
            with self._lock:
                try:
                    forks.send(self._running(), request, files)
                except OSError:  # it is just ending
                    self._end()
                    forks.send(self._running(), request, files)
        finally:
            theirs.close()
            os.close(in_read)
            os.close(out_write)
        reading = None if out_read is None else os.fdopen(out_read, "rb")
        return ForkedProcess(os.fdopen(in_write, "wb"), reading, answers)

    def close(self) -> None:
        """End it and its runners."""
        with self._lock:
            self._end()
        self._home.cleanup()

    def _running(self) -> socket.socket:
        """Our end of the running process's socket."""
        if self._process is not None and self._process.poll() is not None:
            log.warning("the fork server ended with exit code %d and is started again", self._process.returncode)
            self._end()
        if self._control is None:
            self._control, theirs = forks.socket_pair()
            with theirs:
                self._process = subprocess.Popen(
                    # -P: a file in its directory is never imported.
                    [sys.executable, "-P", "-m", "nestor_worker.runner.fork_server", self._home.name],
                    stdin=theirs.fileno(),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    cwd=self._home.name,
                    env=self._environment,
                    start_new_session=True,
                )
            assert self._process.stdout is not None
            threading.Thread(target=_log_lines, args=(self._process.stdout,), name="fork-server", daemon=True).start()
        return self._control

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._control is not None:
            self._control.close()
        self._process = self._control = None


def _log_lines(output: IO[bytes]) -> None:
    """Log what the fork server and its libraries print, until it ends."""
    with output:
        for line in output:
            if text := line.decode(errors="replace").rstrip():
                log.warning("%s", text)
