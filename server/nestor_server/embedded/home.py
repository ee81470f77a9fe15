"""The directory where an installation keeps its data, logs and secrets, and the lock that gives it one owner."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import stat
from io import TextIOWrapper
from pathlib import Path
from typing import Any, final

import platformdirs

from nestor_server.embedded.errors import AlreadyRunning, HomeUnusable
from nestor_server.embedded.process import Account, alive, unprivileged


def default_home() -> Path:
    if given := os.environ.get("NESTOR_HOME"):
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/nestor")  # not under /root: PostgreSQL runs as another user and must reach it
    return platformdirs.user_data_path("nestor")


def reachable(path: Path) -> bool:
    """Whether any user may walk down to `path`. If not, that is the owner's wish: we never open directories up."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents)


def write_private(path: Path, text: str) -> None:
    """Replace `path` whole, readable by its owner alone from the first byte."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(text)
    new.replace(path)


@final
class Home:
    """`acquire()` before anything else is done with it; `release()` at the end. A killed owner releases it too."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self._lock: TextIOWrapper | None = None

    @property
    def server_file(self) -> Path:
        """Where a running Nestor says at which address it is."""
        return self.path / "server.json"

    @property
    def token_file(self) -> Path:
        return self.path / "token"

    def log(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    def running(self) -> dict[str, Any] | None:
        """What the running Nestor says of itself; None when it has not come up, or nothing runs."""
        try:
            said = json.loads(self.server_file.read_text())
        except (OSError, ValueError):
            return None
        return said if alive(said["pid"]) else None  # one that was killed leaves its file behind

    def acquire(self) -> None:
        account = unprivileged()
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
            # A POSIX record lock: the kernel lifts it when we die, and children do not inherit it.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            pid = lock.read().strip() or "its pid"
            lock.close()
            running = self.running()
            where = f"at {running['url']}" if running else "though it is not up yet"
            raise AlreadyRunning(home=str(self.path), where=where, pid=pid) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def directory(self, name: str, account: Account | None) -> Path:
        """A directory of a server's own."""
        path = self.path / name
        path.mkdir(mode=0o700, exist_ok=True)
        if account:
            account.owns(path)
        return path

    def scratch(self) -> Path:
        """An empty directory for temporary files: what a killed worker left there is gone with the next start."""
        path = self.path / "scratch"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o700)
        return path

    def secret(self, name: str) -> str:
        """A password made at first use and kept from then on."""
        path = self.path / name
        if not path.exists():
            write_private(path, secrets.token_urlsafe(24))
        return path.read_text()
