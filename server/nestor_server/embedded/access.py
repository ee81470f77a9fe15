"""How someone on this machine gets in: an up-to-date database, one token that is kept, a file that clients read."""

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
from nestor_server.database import make_engine, migrate
from nestor_server.embedded.errors import DatabaseUnusable, NothingRuns
from nestor_server.embedded.home import Home, default_home, write_private
from nestor_server.embedded.postgres import local_url
from nestor_server.services import tokens
from nestor_server.settings import Settings

USER = "local"  # whoever uses the machine that Nestor runs on


@contextmanager
def in_a_sentence() -> Generator[None]:
    """What the database's driver says when it cannot connect, as an error with a remedy."""
    try:
        yield
    except ValidationError as error:
        raise DatabaseUnusable(reason=error.errors()[0]["msg"]) from error
    except OperationalError as error:
        raise DatabaseUnusable(reason=" ".join(str(error.orig).split())) from error


def database_settings(home: Path | None) -> Settings:
    """Of NESTOR_DATABASE_URL when that is set, else of the `nestor up` that runs on `home`."""
    with in_a_sentence():
        if "NESTOR_DATABASE_URL" in os.environ:
            return Settings()
        path = home or default_home()
        if url := local_url(Home(path)):
            return Settings(database_url=url)
    raise NothingRuns(home=str(path))


def prepare(database_url: str, home: Home) -> str:
    """Migrate the database and give a token that it knows: the kept one, or a new one."""
    with in_a_sentence():
        settings = Settings(database_url=database_url)
        migrate(settings.database_url)
        with _transaction(settings) as session:
            token = _kept(session, home) or tokens.create(session, USER, Scope.admin, "nestor up")
    write_private(home.token_file, token)
    return token


def create_token(settings: Settings, user: str, scope: Scope, name: str, days: float | None) -> str:
    expires = None if days is None else timedelta(days=days)
    with in_a_sentence(), _transaction(settings) as session:
        return tokens.create(session, user, scope, name, expires)


@contextmanager
def _transaction(settings: Settings) -> Generator[Session]:
    engine = make_engine(settings)
    try:
        with Session(engine) as session, session.begin():
            yield session
    finally:
        engine.dispose()


def _kept(session: Session, home: Home) -> str | None:
    """The token of an earlier start, unless this database does not know it, or it was revoked."""
    try:
        token = home.token_file.read_text().strip()
        tokens.authenticate(session, token)
    except (FileNotFoundError, Unauthenticated):
        return None
    return token


def description(url: str) -> str:
    return json.dumps({"url": url, "pid": os.getpid()})


def remember(url: str, token: str) -> str | None:
    """Let clients of this user find the token by the server's address; the reason when that cannot be written."""
    try:
        credentials.save(url, token)
    except (OSError, NestorError) as error:
        return str(error)
    return None
