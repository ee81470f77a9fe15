"""Engines and sessions on Postgres."""

from __future__ import annotations

from typing import Any

from psycopg.pq import Format
from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.orm import Session, sessionmaker

from nestor_server.settings import Settings
from nestor_server.settings import settings as from_environment

Sessions = sessionmaker[Session]

# Of requests, which wait for one another at most: for a locked row, or for the disk.
LIMITS = {"lock_timeout": "10s", "statement_timeout": "30s", "idle_in_transaction_session_timeout": "60s"}


def make_engine(settings: Settings, name: str = "nestor", *, connections: int = 50, bounded: bool = False) -> Engine:
    """An engine on `settings.database_url`.

    Args:
        name: shown by PostgreSQL's views and logs, up to its 63rd byte.
        connections: at most, opened when they are needed.
        bounded: for requests: PostgreSQL ends statements that would hold a connection for long.
    """
    limits = {"options": " ".join(f"-c {name}={value}" for name, value in LIMITS.items())} if bounded else {}
    return create_engine(
        settings.database_url,
        pool_size=connections,
        max_overflow=0,
        pool_use_lifo=True,  # under little load, few connections are used
        pool_pre_ping=True,  # a restarted database costs a reconnect, not a failed request
        pool_timeout=10,
        connect_args={"connect_timeout": 5, "application_name": name, **limits},
    )


def make_sessions(engine: Engine, settings: Settings) -> Sessions:
    """A factory of sessions. They carry the settings, so that messages sent on commit find their broker."""
    return sessionmaker(engine, expire_on_commit=False, info={"settings": settings})


def settings_of(session: Session) -> Settings:
    """The settings that `session` carries, or those of the environment if it was made without `make_sessions`."""
    return session.info.get("settings") or from_environment()


# Execution options of a statement that reads large values of `bytea`. As text, they take four times as long.
BINARY = {"binary_results": True}


@event.listens_for(Engine, "before_cursor_execute")
def _choose_format(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
    if context is not None and context.execution_options.get("binary_results"):
        cursor.format = Format.BINARY


def plain_url(url: str) -> str:
    """SQLAlchemy's address of a database as psycopg reads it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
