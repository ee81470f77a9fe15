"""Access to a local installation: a migrated database, a token, and a credentials file for clients."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from nestor.errors import NestorError, Unauthenticated
from nestor.remote import credentials
from nestor.schemas import Scope
from nestor_server.database import make_engine
from nestor_server.embedded.errors import DatabaseUnusable, NotRunning
from nestor_server.embedded.home import Home, default_home, write_private
from nestor_server.embedded.postgres import local_url
from nestor_server.revisions import migrate
from nestor_server.services import tokens
from nestor_server.settings import Settings

USER = "local"  # the owner of the token that `nestor up` creates


def data_roots(host: str) -> str:
    """NESTOR_DATA_ROOTS of a local installation: the user's home directory, whose files the user can read anyway.

    Nothing, if other machines can reach the server, or if the home directory is not one user's.
    """
    home = Path.home()
    return str(home) if host in ("127.0.0.1", "localhost", "::1") and home != Path("/") else ""


@contextmanager
def describe_database_errors() -> Generator[None]:
    """Turn a wrong address and the driver's connection errors into `DatabaseUnusable`, which has a remedy."""
    try:
        yield
    except ValidationError as error:
        raise DatabaseUnusable(reason=error.errors()[0]["msg"]) from error
    except OperationalError as error:
        raise DatabaseUnusable(reason=" ".join(str(error.orig).split())) from error


def database_settings(home: Path | None) -> Settings:
    """Settings with NESTOR_DATABASE_URL if that is set, else with the database of the `nestor up` on `home`.

    Raises:
        DatabaseUnusable: NESTOR_DATABASE_URL is not the address of a PostgreSQL database.
        NotRunning: neither is there.
    """
    with describe_database_errors():
        if "NESTOR_DATABASE_URL" in os.environ:
            return Settings()
        path = home or default_home()
        if url := local_url(Home(path)):
            return Settings(database_url=url)
    raise NotRunning(home=str(path))


def prepare(database_url: str, home: Home) -> str:
    """Migrate the database, and return a valid admin token: the one stored in `home`, or a new one.

    Raises:
        DatabaseUnusable
    """
    with describe_database_errors():
        settings = Settings(database_url=database_url)
        migrate(settings.database_url)
        with _transaction(settings) as session:
            token = _stored_token(session, home) or tokens.create(session, USER, Scope.admin, "nestor up")
    write_private(home.token_file, token)
    return token


def create_token(settings: Settings, user: str, scope: Scope, name: str, days: float | None) -> str:
    """A new token that expires after `days`, or never. The user is created if missing.

    Raises:
        DatabaseUnusable
    """
    expires = None if days is None else timedelta(days=days)
    with describe_database_errors(), _transaction(settings) as session:
        return tokens.create(session, user, scope, name, expires)


@contextmanager
def _transaction(settings: Settings) -> Generator[Session]:
    engine = make_engine(settings)
    try:
        with Session(engine) as session, session.begin():
            yield session
    finally:
        engine.dispose()


def _stored_token(session: Session, home: Home) -> str | None:
    """The token of an earlier start, if this database accepts it."""
    try:
        token = home.token_file.read_text().strip()
        tokens.authenticate(session, token)
    except (FileNotFoundError, Unauthenticated):
        return None
    return token


def server_info(url: str) -> str:
    """The text of `Home.server_file` for a server at `url` in this process."""
    return json.dumps({"url": url, "pid": os.getpid()})


def save_credentials(url: str, token: str) -> str | None:
    """Save the token for clients of this user. Returns the reason if the file cannot be written."""
    try:
        credentials.save(url, token)
    except (OSError, NestorError) as error:
        return str(error)
    return None
