"""A client that freezes in a transaction loses it, whatever it did before, and others get its locks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Engine, bindparam, insert, text, update
from sqlalchemy.exc import OperationalError

from nestor_server import revisions
from nestor_server.database import make_engine
from nestor_server.models import User
from nestor_server.settings import Settings
from testbed.server import new_database, wait_for
from testbed.services import Services

LIMITS = {"idle_in_transaction_session_timeout": "100ms"}
ROWS = [{"name": name} for name in ("a", "b", "c")]
RENAMED = update(User).where(User.name == bindparam("old")).values(name=bindparam("new"))


@pytest.fixture(scope="module")
def engine(services: Services) -> Iterator[Engine]:
    with new_database(services) as url:
        revisions.migrate(url)
        engine = make_engine(Settings(database_url=url), limits=LIMITS)
        yield engine
        engine.dispose()


def insert_one(connection: Connection) -> None:
    connection.execute(insert(User), ROWS[:1])


def insert_several(connection: Connection) -> None:
    connection.execute(insert(User), ROWS)


def update_several(connection: Connection) -> None:
    connection.execute(RENAMED, [{"old": "a", "new": "d"}, {"old": "b", "new": "e"}])


@pytest.mark.parametrize("work", [insert_one, insert_several, update_several])
def test_a_transaction_that_stays_idle_is_ended_after_statements_of_every_kind(engine: Engine, work):
    """psycopg's own `executemany` leaves the connection in a state in which PostgreSQL waits forever."""
    with engine.connect() as frozen, engine.connect() as other:
        pid = frozen.scalar(text("SELECT pg_backend_pid()"))
        work(frozen)
        alive = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid").bindparams(pid=pid)

        def is_gone() -> bool:
            with other.begin():
                return other.scalar(alive) == 0

        wait_for(is_gone, "the end of the connection")
        with pytest.raises(OperationalError):
            frozen.execute(text("SELECT 1"))


def test_a_statement_for_several_rows_counts_the_rows_of_all(engine: Engine):
    with engine.begin() as connection:
        connection.execute(insert(User), ROWS)
        changes = [{"old": "a", "new": "d"}, {"old": "b", "new": "e"}, {"old": "nobody", "new": "f"}]
        assert connection.execute(RENAMED, changes).rowcount == 2
        assert connection.execute(text("SELECT name FROM users WHERE name = 'd'")).rowcount == 1
        connection.rollback()
