"""A real PostgreSQL and a real Valkey in their own directory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from nestor_server.embedded.databases.postgres import Postgres
from nestor_server.embedded.databases.valkey import Valkey
from nestor_server.embedded.home import Home
from testbed.leaks import expect_no_secrets_in_home


@dataclass(frozen=True)
class Services:
    home: Path
    database_url: str
    redis_url: str


@contextmanager
def fresh_home() -> Generator[Path]:
    """A temporary directory that every user may enter, because PostgreSQL does not run as root."""
    path = Path(tempfile.mkdtemp(prefix="nestor-test-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def running_services() -> Generator[Services]:
    """Call it from the main thread: the servers get a signal when the thread that started them ends."""
    with ExitStack() as stack:
        home = Home(stack.enter_context(fresh_home()))
        home.acquire()
        stack.callback(home.release)
        stack.callback(expect_no_secrets_in_home, home.path)
        postgres, valkey = Postgres(home), Valkey(home)
        stack.callback(postgres.stop)
        database_url = postgres.start()
        stack.callback(valkey.stop)
        yield Services(home.path, database_url, valkey.start())
