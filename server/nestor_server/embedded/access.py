"""Access to a local installation: a migrated database, a token, and a credentials file for clients."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import redis
from sqlalchemy import func, select
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import Session

from nestor.errors import NestorError, Unauthenticated
from nestor.remote import credentials
from nestor.schemas import Scope
from nestor_server.database import make_engine
from nestor_server.embedded.databases.postgres import local_url
from nestor_server.embedded.errors import (
    BrokerUnusable,
    DatabaseUnusable,
    EmbeddedDatabaseUnusable,
    NotRunning,
    StackError,
)
from nestor_server.embedded.home import Home, default_home, write_private
from nestor_server.models import Worker
from nestor_server.revisions import migrate
from nestor_server.roles import admit
from nestor_server.services.access import tokens
from nestor_server.settings import Settings, read_settings

USER = "local"  # the owner of the token that `nestor up` creates
RENEWED_BEFORE = timedelta(days=30)  # a start makes another token if the stored one expires within this time


def data_roots(host: str) -> str:
    """NESTOR_DATA_ROOTS of a local installation: the user's home directory, whose files the user can read anyway.

    Nothing, if other machines can reach the server, or if the home directory is not one user's.
    """
    home = Path.home()
    return str(home) if host in ("127.0.0.1", "localhost", "::1") and home != Path("/") else ""


@contextmanager
def describe_database_errors(home: Path | None = None) -> Generator[None]:
    """Turn a wrong address and the driver's errors into an error with a remedy.

    Args:
        home: of the `nestor up` whose PostgreSQL is used if NESTOR_DATABASE_URL is not set.
    """
    try:
        yield
    except (ArgumentError, ValueError) as error:  # the text of some has the address, and so the password
        raise _unusable("its address cannot be parsed", home) from error
    except DBAPIError as error:
        raise _unusable(" ".join(str(error.orig).split()).rstrip("."), home) from error


def _unusable(reason: str, home: Path | None) -> StackError:
    if os.environ.get("NESTOR_DATABASE_URL"):
        return DatabaseUnusable(variable="NESTOR_DATABASE_URL", reason=reason)
    return EmbeddedDatabaseUnusable(reason=reason, log=str(Home(home or default_home()).log("postgres")))


def database_settings(home: Path | None) -> Settings:
    """Settings with NESTOR_DATABASE_URL if that is set, else with the database of the `nestor up` on `home`.

    Raises:
        DatabaseUnusable: NESTOR_DATABASE_URL is not the address of a PostgreSQL database.
        NotRunning: neither is there.
    """
    if os.environ.get("NESTOR_DATABASE_URL"):
        return read_settings(Settings)
    path = home or default_home()
    if url := local_url(Home(path)):
        return read_settings(Settings, database_url=url)
    raise NotRunning(home=str(path))


def prepare(settings: Settings, home: Home) -> str:
    """Migrate the database, admit its services, and return a valid admin token: the stored one of `home`, or a new one.

    Raises:
        DatabaseUnusable, EmbeddedDatabaseUnusable, RoleUnusable, RoleMissing
    """
    with describe_database_errors(home.path):
        migrate(settings.database_url)
        admit(settings)
        with transaction(settings) as session:
            token = _stored_token(session, home) or tokens.create(session, USER, Scope.admin, "nestor up")
    write_private(home.token_file, token)
    return token


def check_broker(redis_url: str) -> None:
    """Connect to the broker of NESTOR_REDIS_URL once.

    Raises:
        BrokerUnusable
    """
    try:
        with redis.Redis.from_url(redis_url, socket_timeout=5.0, socket_connect_timeout=5.0) as broker:
            broker.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        raise BrokerUnusable(reason=" ".join(str(error).split()).rstrip(".")) from error


def registered_workers(settings: Settings, pids: Iterable[int], *, seconds: float) -> set[int]:
    """Those of the processes `pids` on this machine that take trials: workers with a heartbeat in the last `seconds`.

    Raises:
        DatabaseUnusable, EmbeddedDatabaseUnusable
    """
    recent = Worker.heartbeat_at > func.now() - timedelta(seconds=seconds)
    with describe_database_errors(), transaction(settings) as session:
        ids = {worker.partition("/")[0] for worker in session.scalars(select(Worker.id).where(recent))}
    return {pid for pid in pids if Worker.id_of(pid) in ids}


@contextmanager
def transaction(settings: Settings) -> Generator[Session]:
    """A transaction on a connection of its own."""
    engine = make_engine(settings)
    try:
        with Session(engine) as session, session.begin():
            yield session
    finally:
        engine.dispose()


def _stored_token(session: Session, home: Home) -> str | None:
    """The token of an earlier start, if this database accepts it and will for some time."""
    try:
        token = home.token_file.read_text().strip()
        expires_at = tokens.authenticate(session, token).expires_at
    except (FileNotFoundError, Unauthenticated):
        return None
    return token if expires_at is None or expires_at > datetime.now(UTC) + RENEWED_BEFORE else None


def server_info(url: str, workers: Mapping[str, int]) -> str:
    """The text of `Home.server_file` for a server at `url` in this process; `workers` has the pids by name."""
    return json.dumps({"url": url, "pid": os.getpid(), "workers": dict(workers)})


def save_credentials(url: str, token: str) -> str | None:
    """Save the token for clients of this user. Returns the reason if the file cannot be written."""
    try:
        credentials.save(url, token)
    except (OSError, NestorError) as error:
        return str(error)
    return None
