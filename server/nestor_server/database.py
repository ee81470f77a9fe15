"""Sessions on Postgres, one transaction per request, and the migrations of the schema."""

from __future__ import annotations

import threading
from collections.abc import Generator
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from fastapi import Request
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.orm import Session, sessionmaker

from nestor_server.settings import Settings
from nestor_server.settings import settings as from_environment

Sessions = sessionmaker[Session]


def make_engine(settings: Settings, name: str = "nestor") -> Engine:
    """An engine on `settings.database_url`. PostgreSQL's views and logs show `name`, up to its 63rd byte."""
    return create_engine(
        settings.database_url,
        pool_size=10,
        max_overflow=40,  # FastAPI's threadpool has 40 threads, and each may hold one
        pool_pre_ping=True,  # a restarted database costs a reconnect, not a failed request
        pool_timeout=10,
        connect_args={"connect_timeout": 5, "application_name": name},
    )


def make_sessions(engine: Engine, settings: Settings) -> Sessions:
    """A factory of sessions. They carry the settings, so that messages sent on commit find their broker."""
    return sessionmaker(engine, expire_on_commit=False, info={"settings": settings})


def settings_of(session: Session) -> Settings:
    """The settings that `session` carries, or those of the environment if it was made without `make_sessions`."""
    return session.info.get("settings") or from_environment()


def transaction(request: Request) -> Generator[Session]:
    """The transaction of a request: committed when its route returns, rolled back when its route raises."""
    sessions: Sessions = request.app.state.sessions
    with sessions.begin() as session:
        yield session


# --- migrations -----------------------------------------------------------------------------------


_MIGRATING = threading.Lock()  # Alembic keeps its state in module variables


def migrations() -> Path:
    """The folder of migrations: inside an installed package, or at the top of the repository in a checkout."""
    installed = Path(__file__).parent / "migrations"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "migrations"


def alembic_config(url: str) -> Config:
    """What Alembic's commands need to work on the database at `url`."""
    config = Config()
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    config.attributes["url"] = url
    return config


def migrate(url: str, revision: str = "head") -> None:
    """Upgrade the database at `url` to `revision`. Concurrent calls, from any process, wait for each other."""
    with _MIGRATING:
        command.upgrade(alembic_config(url), revision)


def head() -> str | None:
    """The revision that this code expects."""
    return ScriptDirectory.from_config(alembic_config("")).get_current_head()


def revision(session: Session) -> str | None:
    """The revision of the database; None if it was never migrated."""
    return MigrationContext.configure(session.connection()).get_current_revision()


def plain_url(url: str) -> str:
    """SQLAlchemy's address of a database as psycopg reads it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
