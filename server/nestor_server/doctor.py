"""What is wrong with an installation, and how to mend it."""

from __future__ import annotations

import importlib.util
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from nestor.errors import NestorError
from nestor.remote import credentials
from nestor_server import database
from nestor_server.embedded.access import database_settings
from nestor_server.embedded.binaries import find_postgres, find_valkey
from nestor_server.embedded.home import Home, reachable
from nestor_server.embedded.process import unprivileged

TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Finding:
    fine: bool
    what: str
    remedy: str = ""


def examine(path: Path) -> Iterator[Finding]:
    home = Home(path)
    yield _torch()
    yield from _binaries(home)
    yield _home(home)
    running = home.running()
    yield _server(home, running)
    if running or "NESTOR_DATABASE_URL" in os.environ:
        yield _database(home)
    yield _credentials()


def _torch() -> Finding:
    if importlib.util.find_spec("torch"):
        return Finding(True, "torch is installed: a worker can run here")
    return Finding(False, "torch is not installed: no worker can run here", "pip install 'nestor[worker]'")


def _binaries(home: Home) -> Iterator[Finding]:
    made_by = home.path / "postgres" / "data" / "PG_VERSION"
    if "NESTOR_DATABASE_URL" in os.environ:
        yield Finding(True, "PostgreSQL: NESTOR_DATABASE_URL")
    else:
        try:
            programs, version = find_postgres(made_by.read_text().strip() if made_by.exists() else None)
            yield Finding(True, f"PostgreSQL {version}: {programs}")
        except NestorError as error:
            yield Finding(False, "PostgreSQL cannot be started", str(error))
    if "NESTOR_REDIS_URL" in os.environ:
        yield Finding(True, "Valkey: NESTOR_REDIS_URL")
    else:
        try:
            yield Finding(True, f"Valkey: {find_valkey()}")
        except NestorError as error:
            yield Finding(False, "Valkey cannot be started", str(error))


def _home(home: Home) -> Finding:
    path = home.path
    existing = next(each for each in (path, *path.parents) if each.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        remedy = "pass --home, or set NESTOR_HOME, to a directory of yours"
        return Finding(False, f"{existing} cannot be written", remedy)
    account = unprivileged()
    if account and not reachable(path if path.exists() else existing):
        remedy = f"pass --home with a directory that the user {account.name} can walk into: PostgreSQL runs as it"
        return Finding(False, f"{path} is out of reach for PostgreSQL", remedy)
    return Finding(True, f"data and logs: {path}" + ("" if path.exists() else " (made by the first `nestor up`)"))


def _server(home: Home, running: dict[str, object] | None) -> Finding:
    if running is None:
        return Finding(True, f"no `nestor up` runs on {home.path}")
    url = running["url"]
    try:
        answer = httpx.get(f"{url}/readyz", timeout=TIMEOUT_SECONDS, trust_env=False)
    except httpx.HTTPError as error:
        return Finding(False, f"the server at {url} does not answer ({error})", f"read {home.log('server')}")
    if answer.status_code != 200:
        return Finding(False, f"the server at {url} is not ready: {answer.text[:300]}", f"read {home.log('server')}")
    return Finding(True, f"the server at {url} is ready")


def _database(home: Home) -> Finding:
    try:
        engine = create_engine(database_settings(home.path).database_url, connect_args={"connect_timeout": 5})
        with Session(engine) as session:
            found, expected = database.revision(session), database.head()
        engine.dispose()
    except (NestorError, SQLAlchemyError) as error:
        return Finding(False, "the database does not answer", str(error))
    if found != expected:
        return Finding(False, f"the database is at revision {found}, the code at {expected}", "nestor migrate")
    return Finding(True, f"the database is at revision {found}")


def _credentials() -> Finding:
    path = credentials.path()
    if not path.exists():
        return Finding(True, f"no credentials are kept in {path} yet")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Finding(False, f"others may read the tokens in {path}", f"chmod 600 {path}")
    return Finding(True, f"credentials: {path}")
