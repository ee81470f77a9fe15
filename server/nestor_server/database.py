"""Sessions on Postgres, one transaction a request, and the migrations that bring a database up to date."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from fastapi import Request
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.orm import Session, sessionmaker

from nestor.errors import DigestMismatch
from nestor_server.settings import Settings
from nestor_server.settings import settings as from_environment

Sessions = sessionmaker[Session]


def make_engine(settings: Settings, name: str = "nestor") -> Engine:
    """`name` is what PostgreSQL's own views and logs show of these connections, up to its 63rd byte."""
    return create_engine(
        settings.database_url,
        pool_size=10,
        max_overflow=40,  # FastAPI's threadpool has 40 threads, and each may hold one
        pool_pre_ping=True,  # a restarted database costs a reconnect, not a failed request
        pool_timeout=10,
        connect_args={"connect_timeout": 5, "application_name": name},
    )


def make_sessions(engine: Engine, settings: Settings) -> Sessions:
    """Sessions carry the settings, so that a message sent on commit finds its broker."""
    return sessionmaker(engine, expire_on_commit=False, info={"settings": settings})


def settings_of(session: Session) -> Settings:
    """Those that `session` carries; of a session that was made by hand, the environment's."""
    return session.info.get("settings") or from_environment()


def begin(request: Request) -> Iterator[Session]:
    """One transaction a request; see `auth.Tx` for when it is committed."""
    with request.app.state.sessions() as session:
        try:
            yield session
        except DigestMismatch:
            session.commit()  # the one refusal that changes something: the wrong bytes are gone
            raise
        session.commit()


# --- migrations -----------------------------------------------------------------------------------


_MIGRATING = threading.Lock()  # Alembic keeps what it works on in a module


def migrations() -> Path:
    """Inside the package when installed from a wheel, at the top of the repository in a checkout."""
    installed = Path(__file__).parent / "migrations"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "migrations"


def alembic_config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    config.attributes["url"] = url
    return config


def migrate(url: str, revision: str = "head") -> None:
    """Bring the database at `url` to `revision`. Two processes may do so at once: one waits for the other."""
    with _MIGRATING:
        command.upgrade(alembic_config(url), revision)


def head() -> str | None:
    """The revision that this code expects."""
    return ScriptDirectory.from_config(alembic_config("")).get_current_head()


def revision(session: Session) -> str | None:
    """The revision that the database is at; None when it was never migrated."""
    return MigrationContext.configure(session.connection()).get_current_revision()


def plain_url(url: str) -> str:
    """The address as psycopg itself reads it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
