"""A real server in its own process, on its own database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from sqlalchemy import NullPool, create_engine, make_url, text

from nestor.schemas import API, Scope
from nestor_server import database, revisions, roles
from nestor_server.database import Sessions
from nestor_server.embedded.databases.postgres import free_port as free_port
from nestor_server.services.access import tokens
from nestor_server.settings import SERVICES, Settings
from testbed.contract import DescribedClient
from testbed.leaks import expect_no_secrets, passwords_of
from testbed.services import Services


@dataclass
class Server:
    url: str
    token: str  # of the scope admin
    settings: Settings
    sessions: Sessions = field(repr=False)
    environment: dict[str, str] = field(repr=False)
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def http(self, token: str | None = "", **options: Any) -> httpx.Client:
        """An HTTP client of the REST API, with this server's token unless another one or None is given.

        It fails on answers that /openapi.json does not describe.
        """
        token = self.token if token == "" else token
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return DescribedClient(base_url=self.url + API, headers=headers, timeout=120, trust_env=False, **options)

    def new_token(self, user: str | None = None, scope: Scope = Scope.write) -> str:
        """A token of a new user by default, so that tests do not see each other's data."""
        with self.sessions.begin() as session:
            return tokens.create(session, user or f"user-{uuid4().hex[:12]}", scope)

    def start(self, *, path: str = "/readyz") -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nestor_server"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(lambda: self._answers(path), "the server to answer")

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> int | None:
        if self.process is None:
            return None
        self.process.send_signal(sig)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.process = None

    def _answers(self, path: str) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"the server did not start:\n{self.log.read_text()[-4000:]}")
        try:
            return httpx.get(self.url + path, timeout=5, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


def wait_for(condition: Callable[[], object], what: str, *, seconds: float = 60.0) -> None:
    """Look again after a tenth of the time that has passed: frequent requests would slow down what they wait for."""
    began = time.monotonic()
    while not condition():
        passed = time.monotonic() - began
        if passed > seconds:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(min(max(0.02, passed / 10), 0.25))


@contextmanager
def new_database(services: Services) -> Iterator[str]:
    """The address of an empty database, which is dropped at the end."""
    name = f"test_{uuid4().hex[:12]}"
    engine = create_engine(services.database_url, isolation_level="AUTOCOMMIT", poolclass=NullPool)  # it may restart
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        yield make_url(services.database_url).set(database=name).render_as_string(hide_password=False)
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        engine.dispose()


def as_service(service: str, url: str) -> str:
    """The address of a database with the role of "server" or "worker" instead of the owner of its tables."""
    return make_url(url).set(username=f"nestor_{service}").render_as_string(hide_password=False)


@contextmanager
def running_server(
    services: Services, *, redis_db: int = 0, wait_on: str = "/readyz", **settings: Any
) -> Iterator[Server]:
    """A server on a migrated database, with an admin token. `settings` are fields of `Settings`."""
    with new_database(services) as database_url:
        revisions.migrate(database_url)
        redis_url = services.redis_url.rpartition("/")[0] + f"/{redis_db}"
        with serving({"database_url": database_url, "redis_url": redis_url} | settings, wait_on=wait_on) as server:
            yield server


@contextmanager
def serving(settings: dict[str, Any], *, wait_on: str = "/readyz") -> Iterator[Server]:
    """A server on an existing database, with a role that `nestor migrate` creates for it.

    `Server.settings` and `Server.sessions` have the role of the owner of its tables.
    """
    with tempfile.TemporaryDirectory(prefix="nestor-server-") as home:
        given: dict[str, Any] = {"port": free_port()} | settings
        ours = Settings(**given)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("NESTOR_")}
        environment |= {f"NESTOR_{key.upper()}": str(value) for key, value in given.items()}
        environment["NESTOR_DATABASE_URL"] = as_service("server", ours.database_url)
        services = {f"{service}_database_url": as_service(service, ours.database_url) for service in SERVICES}
        roles.admit(ours.model_copy(update=services))
        engine = database.make_engine(ours)
        sessions = database.make_sessions(engine, ours)
        try:
            with sessions.begin() as session:
                token = tokens.create(session, "tester", Scope.admin, "tests")
            url = f"http://127.0.0.1:{ours.port}"
            server = Server(url, token, ours, sessions, environment, Path(home, "server.log"))
            try:
                server.start(path=wait_on)
                yield server
            finally:
                server.stop()
            expect_no_secrets([server.log], passwords_of(environment))
        finally:
            engine.dispose()
