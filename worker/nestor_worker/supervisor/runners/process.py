"""The supervisor's side of a runner: spawns it without credentials, reads its messages, and kills its descendants.

A runner is spawned before it is needed: until `begin`, it loads what every trial needs and waits. A fork server, if
there is one, has loaded it for all runners. On several devices a runner has one process per device. The first process
sends the messages of all, and all end together.
"""

from __future__ import annotations

import os
import queue
import signal
import site
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from nestor_worker import channel, workdir
from nestor_worker.forks import ForkRequest
from nestor_worker.supervisor.runners.fork_server import ForkedProcess, ForkServer
from nestor_worker.supervisor.runners.inbox import Inbox, RunnerLog

# The variables that a runner inherits. Any other could hold a password.
INHERITED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
# Reuse freed blocks of up to 256 MiB. Returning them to the system and allocating them again causes page faults, which
# cost four to five times the arithmetic on vectors of ten million numbers. Larger blocks are too large to stay idle.
ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": str(2**28), "MALLOC_TRIM_THRESHOLD_": str(2**34)}
# Without a fixed workspace, matrix products on a GPU are not deterministic, and a trial would not resume exactly.
REPEATABLE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
MAX_UNREAD = 8 * 2**20  # bytes of messages; a runner that is faster than the database waits
FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS)
LOOPBACK = "lo" if sys.platform == "linux" else "lo0"


def environment(directory: Path, *, threads: int, device: str) -> dict[str, str]:
    """The environment variables of one process of a runner, which sees only `device`."""
    inherited = {name: value for name, value in os.environ.items() if name in INHERITED}
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    visible = {"CUDA_VISIBLE_DEVICES": "" if device == "cpu" else device}
    # Waiting threads that spin take the core from the threads that they wait for: 15 times slower on a busy machine.
    waiting = {"OMP_WAIT_POLICY": "PASSIVE"}
    apart = {"HOME": str(directory), "TMPDIR": str(directory), "GLOO_SOCKET_IFNAME": LOOPBACK}
    apart["USER"] = "nestor"  # libraries would look into the users of the machine, which a runner cannot read
    if site.ENABLE_USER_SITE:  # packages that `pip install --user` put below the worker's own HOME
        apart["PYTHONUSERBASE"] = site.getuserbase()
    return {**inherited, **counts, **waiting, **ALLOCATION, **REPEATABLE, **visible, **apart}


class Runner:
    """The processes of a runner.

    Attributes:
        directory: their work directory, all of which they may change.
        objects: what they may read and not change: links to downloaded objects.
        inbox: their messages, and None after the last one.
    """

    def __init__(self, *, threads: int, devices: tuple[str, ...], fork_server: ForkServer | None = None) -> None:
        self._home = tempfile.TemporaryDirectory(prefix=workdir.prefix(os.getpid()), ignore_cleanup_errors=True)
        home = Path(self._home.name)
        home.chmod(0o711)  # the runner may have another account
        self.directory, self.objects = home / "work", home / "objects"
        self.directory.mkdir(mode=0o700)
        self.objects.mkdir(mode=0o755)
        self.inbox = Inbox(MAX_UNREAD)
        self._broken: str | None = None
        self._closed = False
        self._logs: list[RunnerLog] = []
        self._processes: list[subprocess.Popen[bytes] | ForkedProcess] = []
        for rank, device in enumerate(devices):
            variables = environment(self.directory, threads=threads, device=device)
            self._logs.append(RunnerLog(f"log of {home.name}"))
            self._processes.append(_spawn(self.directory, rank, variables, self._logs[rank], fork_server))
        self._process = self._processes[0]
        self._reader = threading.Thread(target=self._read, name=home.name, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id of the first process, once it exists."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether all processes run."""
        return all(process.poll() is None for process in self._processes)

    @property
    def has_lost_a_process(self) -> bool:
        """Whether a process other than the first has failed."""
        return any(process.poll() for process in self._processes[1:])

    @property
    def resident_bytes(self) -> int | None:
        """Resident memory of all its processes; None if none of them runs yet, or if this system does not say.

        This never waits, and another thread may close the runner meanwhile. What forked processes share is counted for
        each of them.
        """
        pages = [n for process in self._processes if (n := _resident_pages(process)) is not None]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE") if pages else None

    def begin(self, devices: int = 1) -> None:
        """Run the trial in the work directory on the first `devices` devices. The other processes end."""
        for process in self._processes[devices:]:
            _end(process)
        del self._processes[devices:]
        for process in self._processes:
            _send(process, channel.Begin())

    def send(self, message: channel.Message) -> None:
        """Send one message to the first process, which acts for all."""
        _send(self._process, message)

    def close(self) -> None:
        """Kill the processes and their descendants, if any still run, and remove the work directory."""
        self._closed = True
        for process in self._processes:
            _end(process)
        while self._reader.is_alive():  # it may wait for space in the inbox
            with suppress(queue.Empty):
                self.inbox.get(timeout=0.05)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._home.cleanup()

    def crash_signal(self) -> str | None:
        """The signal with which the kernel answered a fault of a process, such as "SIGSEGV"; None if there was none."""
        return next((signal.Signals(-code).name for code in self._codes() if code and -code in FAULTS), None)

    def exit_reason(self) -> str:
        """Why a runner ended that sent neither `Ended` nor `Failed`: a clause without a full stop."""
        if self._broken is not None:
            return f"its runner sent an invalid message: {self._broken}"
        codes = self._codes()
        # The first process that failed by itself. The others end because they lost their peer.
        rank = next((rank for rank, code in enumerate(codes) if code not in (None, 0, channel.LOST_PEER)), 0)
        code, which = codes[rank], "its runner"
        if len(codes) > 1:
            which += f" (process {rank + 1} of {len(codes)})"
        if code is None:
            return f"{which} did not stop in time"
        if code == -signal.SIGKILL:
            return f"{which} was killed (SIGKILL); unless someone did that by hand, the machine ran out of memory"
        if code < 0:
            return f"{which} was ended by signal {signal.Signals(-code).name}{self._log_end(rank)}"
        return f"{which} ended with exit code {code}{self._log_end(rank)}"

    def _codes(self) -> list[int | None]:
        """The exit codes of the processes; None of those that do not end."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        return [process.poll() for process in self._processes]

    def _log_end(self, rank: int) -> str:
        written = self._logs[rank].last_line()
        return f", after writing: {written[:300]}" if written else ""

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in channel.lines(self._process.stdout):
                if self._closed:
                    break
                self.inbox.put(channel.decode(line), len(line))
        except channel.ChannelBroken as error:
            self._broken = str(error)
        self.inbox.put(None, 1)


def _spawn(
    directory: Path, rank: int, environment: dict[str, str], log: RunnerLog, fork_server: ForkServer | None
) -> subprocess.Popen[bytes] | ForkedProcess:
    stdout = subprocess.PIPE if rank == 0 else subprocess.DEVNULL
    try:
        if fork_server is not None:
            return fork_server.fork(ForkRequest(str(directory), rank, environment), stdout, log.target)
        return subprocess.Popen(
            # -P: a file in the work directory is never imported.
            [sys.executable, "-P", "-m", "nestor_worker.runner.main", str(directory), str(rank)],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=log.target,
            cwd=directory,
            env=environment,
            start_new_session=True,
        )
    finally:
        log.started()


def _resident_pages(process: subprocess.Popen[bytes] | ForkedProcess) -> int | None:
    pid = process.running_pid if isinstance(process, ForkedProcess) else process.pid
    if pid is None:
        return None
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:  # it has ended, or this is not Linux
        return None


def _send(process: subprocess.Popen[bytes] | ForkedProcess, message: channel.Message) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has ended, and the last message in its inbox says why
        process.stdin.write(channel.encode(message))
        process.stdin.flush()


def _end(process: subprocess.Popen[bytes] | ForkedProcess) -> None:
    if isinstance(process, ForkedProcess):
        process.end()
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with suppress(BrokenPipeError):
        if process.stdin is not None:
            process.stdin.close()
