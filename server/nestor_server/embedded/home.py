"""The directory of an installation's data, logs and secrets, and the lock that lets one process own it."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import stat
from io import TextIOWrapper
from pathlib import Path
from typing import TypedDict, cast, final

import platformdirs

from nestor_server.embedded.accounts import Account, of_databases
from nestor_server.embedded.errors import AlreadyRunning, HomeUnusable
from nestor_server.embedded.process import alive


def default_home() -> Path:
    """NESTOR_HOME, or the usual directory for data of this user."""
    if setting := os.environ.get("NESTOR_HOME"):
        return Path(setting)
    if os.geteuid() == 0:
        return Path("/var/lib/nestor")  # not under /root: PostgreSQL runs as another user and must reach it
    return platformdirs.user_data_path("nestor")


def reachable(path: Path) -> bool:
    """Whether every user may enter all parents of `path`. Nestor never changes the permissions of parents."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents)


def write_private(path: Path, text: str) -> None:
    """Replace the file `path` atomically. Only its owner can read it, at any time."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(text)
    new.replace(path)


class ServerInfo(TypedDict):
    """The contents of `Home.server_file`."""

    url: str
    pid: int
    workers: dict[str, int]  # the pid of each


@final
class Home:
    """One home directory. The owner calls `acquire()` first and `release()` last; a killed owner releases it too."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self._lock: TextIOWrapper | None = None

    @property
    def server_file(self) -> Path:
        """The file in which a running Nestor announces its address."""
        return self.path / "server.json"

    @property
    def token_file(self) -> Path:
        """The file with the admin token of `nestor up`."""
        return self.path / "token"

    def log(self, name: str) -> Path:
        """The log of the part `name`, such as "postgres"."""
        return self.path / "logs" / f"{name}.log"

    def running(self) -> ServerInfo | None:
        """The address and pid of the running Nestor; None if nothing runs, or not yet."""
        try:
            info = cast(ServerInfo, {"workers": {}, **json.loads(self.server_file.read_text())})
        except (OSError, ValueError, TypeError):
            return None
        return info if alive(info["pid"]) else None  # a killed Nestor leaves its file behind

    def acquire(self) -> None:
        """Create the directory and take its lock.

        Raises:
            AlreadyRunning: another process has the lock.
            HomeUnusable: the directory cannot be created or written, or PostgreSQL's user cannot reach it.
        """
        account = of_databases()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.path.chmod(0o711 if account else 0o700)
            if account and not reachable(self.path):
                reason = f"PostgreSQL must run as the user {account.name}, who may not enter one of its parents"
                raise HomeUnusable(home=str(self.path), reason=reason)
            (self.path / "logs").mkdir(mode=0o700, exist_ok=True)
            lock = (self.path / "lock").open("a+")
        except OSError as error:
            raise HomeUnusable(home=str(self.path), reason=error.strerror or str(error)) from error
        try:
            # A POSIX record lock: the kernel releases it when this process ends, and children do not inherit it.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            pid = lock.read().strip() or "its pid"
            lock.close()
            running = self.running()
            where = f"at {running['url']}" if running else "and is starting"
            raise AlreadyRunning(home=str(self.path), where=where, pid=pid) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def release(self) -> None:
        """Give up the lock, if this process has it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def directory(self, name: str, account: Account | None) -> Path:
        """The directory of the part `name`, created if missing, and owned by `account` if one is given."""
        path = self.path / name
        path.mkdir(mode=0o700, exist_ok=True)
        if account:
            account.owns(path)
        return path

    def clear_scratch(self) -> None:
        """Delete all temporary files, such as those that a killed worker left."""
        shutil.rmtree(self.path / "scratch", ignore_errors=True)

    def scratch(self, name: str, account: Account | None) -> Path:
        """The directory for temporary files of the part `name`, owned by `account` if one is given."""
        path = self.path / "scratch" / name
        path.mkdir(mode=0o711, parents=True)
        if account:
            account.owns(path)
        return path

    def secret(self, name: str) -> str:
        """The password `name`, generated at first use."""
        path = self.path / name
        if not path.exists():
            write_private(path, secrets.token_urlsafe(24))
        return path.read_text()
