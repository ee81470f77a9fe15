"""A PostgreSQL server on a data directory inside the home."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import final

from nestor_server.embedded import logs
from nestor_server.embedded.accounts import Account, of_databases
from nestor_server.embedded.databases.binaries import find_postgres, postgres_within_reach
from nestor_server.embedded.environment import for_databases
from nestor_server.embedded.errors import ChildFailed
from nestor_server.embedded.home import Home, write_private
from nestor_server.embedded.process import Child, alive, end_orphan

USER = "nestor"  # the superuser, who owns the tables
START_SECONDS = 60.0
PORT_TRIES = 3  # another program may take a free port before PostgreSQL binds it

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a path inside the home may be too long for a Unix socket
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


def free_port() -> int:
    """A port that is free now. Another program may take it before the caller binds it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def local_url(home: Home) -> str | None:
    """The address of the PostgreSQL that `nestor up` runs on `home`; None if it does not run."""
    lines = _pid_file(home.path / "postgres" / "data")
    password = home.path / "postgres-password"
    if len(lines) < 8 or not alive(int(lines[0])) or not password.exists():
        return None
    return _url(USER, password.read_text(), _port(lines))


def _url(user: str, password: str, port: int) -> str:
    return f"postgresql+psycopg://{user}:{password}@127.0.0.1:{port}/postgres"


@final
class Postgres:
    """The server. The caller has acquired the home, so another process on the data is an orphan and is ended."""

    name = "postgres"

    def __init__(self, home: Home) -> None:
        self._home = home
        self._data = home.path / "postgres" / "data"
        self.child: Child | None = None  # while it is started

    def url_of(self, service: str) -> str:
        """The address of the started server, with the role of "server" or "worker", which `roles.admit` creates."""
        password = self._home.secret(f"postgres-{service}-password")
        return _url(f"{USER}_{service}", password, _port(_pid_file(self._data)))

    def start(self) -> str:
        """Create the data directory if missing, wait until the server is ready, and return its owner's address.

        Raises:
            NoBinary, ChildFailed
        """
        account = of_databases()
        directory = self._home.directory("postgres", account)
        data = self._data
        data_version = (data / "PG_VERSION").read_text().strip() if data.exists() else None
        programs, version = find_postgres(data_version)
        programs = postgres_within_reach(programs, copies=directory / f"programs-{version}", account=account)
        password = self._home.secret("postgres-password")
        if data_version is None:
            self._initialize(programs, directory, password, account)
        self._end_orphan()

        for _ in range(PORT_TRIES):
            port = free_port()
            try:
                self._serve(programs, data, port, account)
            except ChildFailed:
                if _can_bind(port):
                    raise
            else:
                return _url(USER, password, port)
        raise self._failed("found no free port")

    def _serve(self, programs: Path, data: Path, port: int, account: Account | None) -> None:
        child = Child(
            self.name,
            [programs / "postgres", "-D", data, "-p", str(port), *(f"--{k}={v}" for k, v in SETTINGS.items())],
            log=self._home.log(self.name),
            env=for_databases(),
            cwd=data,
            account=account,
            stop_signal=signal.SIGINT,  # a fast shutdown: clients are disconnected, data is flushed
            orphan_signal=signal.SIGINT,
        )
        self.child = child
        child.start()
        try:
            child.wait_until(lambda: _ready(data, child), timeout=START_SECONDS)
        except BaseException:
            self.stop()
            raise

    def is_free(self) -> bool:
        """Whether no process of a server whose main process was killed still uses the data."""
        return not _memory_in_use(self._data)

    def stop(self) -> None:
        """Shut down fast: connections are closed, data is flushed. Does nothing if the server does not run."""
        if self.child is not None:
            self.child.stop(timeout=30.0)
            self.child = None

    def _failed(self, what: str) -> ChildFailed:
        log = self._home.log(self.name)
        return ChildFailed(name=self.name, what=what, log=str(log), tail=logs.tail(log))

    def _initialize(self, programs: Path, directory: Path, password: str, account: Account | None) -> None:
        """Create the data directory under another name and rename it, so that a killed initdb leaves no broken one."""
        partial, password_file = directory / "data.new", directory / "initial-password"
        shutil.rmtree(partial, ignore_errors=True)
        write_private(password_file, password)
        if account:
            account.owns(password_file)
        log = self._home.log(self.name)
        with log.open("ab") as out:
            result = subprocess.run(
                [programs / "initdb", "-D", partial, "-U", USER, "-E", "UTF8", "--locale=C", "-A", "scram-sha-256",
                 "--pwfile", password_file, "--no-instructions"],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False, cwd=directory, env=for_databases(),
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )  # fmt: skip
        password_file.unlink()
        if result.returncode != 0:
            raise self._failed("could not create a new database")
        partial.rename(directory / "data")

    def _end_orphan(self) -> None:
        lines = _pid_file(self._data)
        if not (lines and lines[0].isdigit()):
            return
        end_orphan(int(lines[0]), self._data, signal.SIGINT, signal.SIGQUIT)
        deadline = time.monotonic() + START_SECONDS
        while not self.is_free() and time.monotonic() < deadline:
            time.sleep(0.05)
        if self.is_free():
            # PostgreSQL takes the pid of a zombie for a running server and refuses to start.
            (self._data / "postmaster.pid").unlink(missing_ok=True)


def _pid_file(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def _port(lines: list[str]) -> int:
    """The port that the file of the main process names."""
    return int(lines[3])


def _memory_in_use(data: Path) -> bool:
    """Whether a process is attached to the shared memory that the file of the main process names.

    Where the system has no list, PostgreSQL itself still refuses to start on memory that is in use.
    """
    lines, listed = _pid_file(data), Path("/proc/sysvipc/shm")
    if len(lines) < 7 or not listed.exists():
        return False
    columns, *segments = (line.split() for line in listed.read_text().splitlines())
    found = (dict(zip(columns, segment, strict=True)) for segment in segments)
    return any([segment["key"], segment["shmid"]] == lines[6].split() and segment["nattch"] != "0" for segment in found)


def _ready(data: Path, child: Child) -> bool:
    """PostgreSQL writes its state on the eighth line."""
    lines = _pid_file(data)
    return len(lines) >= 8 and lines[0] == str(child.pid) and lines[7].strip() == "ready"


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
