"""Child processes that end with the process that started them, even if it is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import final

from nestor_server.embedded import logs
from nestor_server.embedded.accounts import Account
from nestor_server.embedded.errors import ChildFailed

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

# For systems whose kernel does not signal a child when its parent ends: this process waits for the end of a pipe.
WATCHDOG = """
import os, sys
os.read(0, 1)
try:
    os.kill(int(sys.argv[1]), int(sys.argv[2]))
except ProcessLookupError:
    pass
"""


@final
class Child:
    """One child process, with a session and a log of its own. It gets `orphan_signal` when its parent ends.

    Start it from the main thread: Linux sends the signal when the *thread* that forked ends.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str],
        cwd: Path,
        account: Account | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        orphan_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name
        self.log = log
        self._argv = [str(part) for part in argv]
        self._env = dict(env)
        self._cwd = cwd
        self._account = account
        self._stop_signal = stop_signal
        self._orphan_signal = orphan_signal
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._log_start = 0  # where this run begins in the log; below 0 if that was moved to another file
        self._signaled = False

    def start(self) -> None:
        """Start the process, or start it again after `stop`.

        Raises:
            RuntimeError: called from a thread other than the main one.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("start children from the main thread: they get a signal when their thread ends")
        on_linux = sys.platform == "linux"
        account = self._account
        self._signaled = False
        self._started = time.monotonic()
        with self.log.open("ab") as log:
            self._log_start = log.tell()  # an error shows only what this run logs
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._cwd,
                env=self._env,
                start_new_session=True,  # Ctrl-C reaches only the parent, which stops its children in order
                preexec_fn=_signal_on_parent_exit(self._orphan_signal) if on_linux else None,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        if not on_linux:
            self._watchdog = start_watchdog(self._process.pid, self._orphan_signal)

    @property
    def pid(self) -> int:
        """The pid of the started process."""
        assert self._process is not None
        return self._process.pid

    @property
    def seconds(self) -> float:
        """How long ago the process was started."""
        return time.monotonic() - self._started

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def signal_stop(self) -> None:
        """Send the stop signal once, and do not wait: so several processes can stop at the same time."""
        if self._process is not None and self._process.poll() is None and not self._signaled:
            self._process.send_signal(self._stop_signal)
            self._signaled = True

    def stop(self, *, timeout: float = 10.0) -> None:
        """Send the stop signal, and kill the process if it still runs after `timeout` seconds."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            self.signal_stop()
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.communicate()
        self._process = self._watchdog = None

    def wait_until(
        self, ready: Callable[[], bool], *, timeout: float, pause: float = 0.02, why: Callable[[], str] = str
    ) -> None:
        """Call `ready` every `pause` seconds until it is true.

        Args:
            why: called after the last attempt for what `ready` found, if that is known.

        Raises:
            ChildFailed: the process ended, or was not ready within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not ready():
            code = self.poll()
            if code is not None:
                raise self.failed(f"ended with {describe_exit(code)} instead of starting")
            if time.monotonic() > deadline:
                reason = why()
                raise self.failed(f"was not ready after {timeout:.0f} s{reason and f' ({reason})'}")
            time.sleep(pause)

    def failed(self, what: str) -> ChildFailed:
        """The error to raise: what happened, and the end of this run's log."""
        return ChildFailed(name=self.name, what=what, log=str(self.log), tail=self.log_tail())

    def log_tail(self) -> str:
        """The end of this run's log."""
        return logs.tail(self.log, self._log_start)

    def rotate_log(self) -> None:
        """Move the contents of a long log to another file, while the process goes on writing."""
        self._log_start -= logs.rotate(self.log)


def describe_exit(code: int) -> str:
    """An exit code in words."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _signal_on_parent_exit(number: signal.Signals) -> Callable[[], None]:
    libc = ctypes.CDLL(None)  # loaded before the fork, after which loading is not safe
    parent = os.getpid()

    def prepare() -> None:  # runs in the child after the change of user, which would clear the setting
        libc.prctl(PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # the parent died between fork and prctl
            os.kill(os.getpid(), signal.SIGKILL)

    return prepare


def start_watchdog(pid: int, number: signal.Signals) -> subprocess.Popen[bytes]:
    """Start a process that signals `pid` when this process ends, which closes the pipe between them."""
    return subprocess.Popen(
        [sys.executable, "-c", WATCHDOG, str(pid), str(int(number))], stdin=subprocess.PIPE, start_new_session=True
    )


def alive(pid: int) -> bool:
    """Whether a process runs. A zombie does not: in a container without an init it may stay forever."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists and belongs to another user
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return sys.platform != "linux"
    return state != "Z"


def end_orphan(pid: int, marker: Path, *signals: signal.Signals, timeout: float = 10.0) -> None:
    """End a process whose owner was killed, by one signal after the other, `timeout` seconds apart.

    `marker` is an argument on its command line. A process without it has reused the pid and is left alone.
    """
    for number in signals:
        if not (alive(pid) and _mentions(pid, marker)):
            return
        os.kill(pid, number)
        deadline = time.monotonic() + timeout
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(0.02)


def _mentions(pid: int, marker: Path) -> bool:
    if sys.platform != "linux":
        output = subprocess.run(
            ["/bin/ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return str(marker) in output.stdout
    try:
        return str(marker).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
