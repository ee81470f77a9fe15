"""Engines and sessions on Postgres."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, final

import psycopg
from psycopg.abc import Params
from psycopg.errors import IdleInTransactionSessionTimeout
from psycopg.pq import Format
from sqlalchemy import Engine, ExceptionContext, create_engine, event, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from nestor_server.settings import Settings
from nestor_server.settings import settings as from_environment

Sessions = sessionmaker[Session]

# Of requests, which wait for one another at most: for a locked row, or for the disk.
REQUEST_LIMITS = {"lock_timeout": "10s", "statement_timeout": "30s", "idle_in_transaction_session_timeout": "60s"}


def worker_limits(settings: Settings) -> dict[str, str]:
    """Of workers: one that freezes in a transaction would keep its trial locked, and nobody could take the trial."""
    return {"idle_in_transaction_session_timeout": f"{3000 * settings.lease_seconds:.0f}ms"}


@final
class Cursor(psycopg.Cursor[Any]):
    """A cursor whose `executemany` executes one statement for each row.

    psycopg sends the rows as a pipeline. After a pipeline, PostgreSQL does not observe
    `idle_in_transaction_session_timeout` until the next statement. A client that froze there kept its locks.
    """

    _changed: int | None = None  # rows, by all statements of `executemany`

    @property
    def rowcount(self) -> int:
        """Rows that the last call found or changed."""
        return super().rowcount if self._changed is None else self._changed

    def execute(self, query: Any, params: Params | None = None, **options: Any) -> Cursor:
        """Execute a statement."""
        self._changed = None
        return super().execute(query, params, **options)

    def executemany(self, query: Any, params_seq: Iterable[Params], *, returning: bool = False) -> None:
        """Execute a statement for each row."""
        assert not returning
        self._changed = sum(self.execute(query, params).rowcount for params in params_seq)


def make_engine(
    settings: Settings, name: str = "nestor", *, connections: int = 50, limits: Mapping[str, str] = MappingProxyType({})
) -> Engine:
    """An engine on `settings.database_url`.

    Args:
        name: shown by PostgreSQL's views and logs, up to its 63rd byte.
        connections: at most, opened when they are needed.
        limits: settings of PostgreSQL for each connection, such as `REQUEST_LIMITS`.
    """
    options = {"options": " ".join(f"-c {setting}={value}" for setting, value in limits.items())} if limits else {}
    engine = create_engine(
        settings.database_url,
        pool_size=connections,
        max_overflow=0,
        pool_use_lifo=True,  # under little load, few connections are used
        pool_pre_ping=True,  # a restarted database costs a reconnect, not a failed request
        pool_timeout=10,
        connect_args={"connect_timeout": 5, "application_name": name, "cursor_factory": Cursor, **options},
    )
    engine.dialect.use_insertmanyvalues_wo_returning = True  # several rows in one INSERT, instead of `executemany`
    return engine


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


@event.listens_for(Engine, "handle_error")
def _as_lost_connection(context: ExceptionContext) -> OperationalError | None:
    """A connection that PostgreSQL ended by `idle_in_transaction_session_timeout` is lost like any other."""
    cause = context.original_exception
    if not isinstance(cause, IdleInTransactionSessionTimeout):
        return None
    return OperationalError(context.statement, context.parameters, cause, connection_invalidated=True)


def plain_url(url: str) -> str:
    """SQLAlchemy's address of a database as psycopg reads it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
