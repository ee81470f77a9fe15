"""Checks of an installation of the server, each with a remedy for what it finds wrong."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path

import httpx
from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from nestor.errors import NestorError
from nestor_server import revisions
from nestor_server.client_checks import TIMEOUT_SECONDS, CheckResult
from nestor_server.embedded.access import database_settings, registered_workers
from nestor_server.embedded.accounts import of_databases
from nestor_server.embedded.databases.binaries import find_postgres, find_valkey
from nestor_server.embedded.home import Home, ServerInfo, reachable
from nestor_server.embedded.process import alive


def examine(path: Path) -> Iterator[CheckResult]:
    """Check what `nestor up` on the home directory `path` needs, and what runs there."""
    home = Home(path)
    yield _torch()
    yield from _binaries(home)
    yield _home(home)
    running = home.running()
    yield _server(home, running)
    if running or "NESTOR_DATABASE_URL" in os.environ:
        yield _database(home)
    if running:
        yield from _workers(home, running["workers"])


def examine_plugins() -> Iterator[CheckResult]:
    """The checks of other packages, which register them in the entry-point group `nestor.checks`."""
    for point in entry_points(group="nestor.checks"):
        yield from point.load()()


def _torch() -> CheckResult:
    if importlib.util.find_spec("torch"):
        return CheckResult(True, "torch is installed: a worker can run here")
    return CheckResult(False, "torch is not installed: no worker can run here", "pip install 'nestor[worker]'")


def _binaries(home: Home) -> Iterator[CheckResult]:
    version_file = home.path / "postgres" / "data" / "PG_VERSION"
    if "NESTOR_DATABASE_URL" in os.environ:
        yield CheckResult(True, "PostgreSQL: NESTOR_DATABASE_URL")
    else:
        try:
            programs, version = find_postgres(version_file.read_text().strip() if version_file.exists() else None)
            yield CheckResult(True, f"PostgreSQL {version}: {programs}")
        except NestorError as error:
            yield CheckResult(False, "PostgreSQL cannot be started", str(error))
    if "NESTOR_REDIS_URL" in os.environ:
        yield CheckResult(True, "Valkey: NESTOR_REDIS_URL")
    else:
        try:
            yield CheckResult(True, f"Valkey: {find_valkey()}")
        except NestorError as error:
            yield CheckResult(False, "Valkey cannot be started", str(error))


def _home(home: Home) -> CheckResult:
    path = home.path
    existing = next(candidate for candidate in (path, *path.parents) if candidate.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        remedy = "pass --home or set NESTOR_HOME with a directory that you can write to"
        return CheckResult(False, f"{existing} is not writable", remedy)
    account = of_databases()
    if account and not reachable(path if path.exists() else existing):
        remedy = f"pass --home with a directory that the user {account.name}, who runs PostgreSQL, can enter"
        return CheckResult(False, f"PostgreSQL cannot reach {path}", remedy)
    return CheckResult(
        True, f"data and logs: {path}" + ("" if path.exists() else " (created by the first `nestor up`)")
    )


def _server(home: Home, running: ServerInfo | None) -> CheckResult:
    if running is None:
        return CheckResult(True, f"no `nestor up` runs on {home.path}")
    url = running["url"]
    try:
        response = httpx.get(f"{url}/readyz", timeout=TIMEOUT_SECONDS, trust_env=False)
    except httpx.HTTPError as error:
        return CheckResult(False, f"the server at {url} does not answer ({error})", f"read {home.log('server')}")
    if response.status_code != 200:
        return CheckResult(
            False, f"the server at {url} is not ready: {response.text[:300]}", f"read {home.log('server')}"
        )
    return CheckResult(True, f"the server at {url} is ready")


def _database(home: Home) -> CheckResult:
    try:
        engine = create_engine(database_settings(home.path).database_url, connect_args={"connect_timeout": 5})
        with Session(engine) as session:
            revision, expected = revisions.revision(session), revisions.head()
        engine.dispose()
    except (NestorError, SQLAlchemyError) as error:
        return CheckResult(False, "the database does not answer", str(error))
    if revision != expected:
        return CheckResult(False, f"the database is at revision {revision}, the code at {expected}", "nestor migrate")
    return CheckResult(True, f"the database is at revision {revision}")


def _workers(home: Home, pids: Mapping[str, int]) -> Iterator[CheckResult]:
    try:
        settings = database_settings(home.path)
        registered = registered_workers(settings, pids.values(), seconds=settings.lease_seconds)
    except (NestorError, SQLAlchemyError) as error:
        yield CheckResult(False, "it is unknown which workers run", str(error))
        return
    for name, pid in pids.items():
        if pid in registered and alive(pid):
            yield CheckResult(True, f"{name} (process {pid}) takes trials")
        else:
            what = "has no connection to the broker or the database" if alive(pid) else "has ended"
            yield CheckResult(False, f"{name} (process {pid}) {what}", f"read {home.log(name)}")
