"""Claims of a trial from a long queue, with statistics from before the queue and with new ones.

Each claim is rolled back, so that the next one meets the same queue. "Sweep" is what the reaper does every few seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from uuid import UUID, uuid4

from sqlalchemy import Engine, event, text
from sqlalchemy.orm import Session

from benchmarks.rows import Row
from benchmarks.server import figures, filling
from benchmarks.server.recorder import Recorder
from benchmarks.server.target import Target
from nestor.schemas import State, StudyCreate
from nestor_server import database, revisions
from nestor_server.database import Sessions
from nestor_server.scheduling import leases
from nestor_server.services import studies
from nestor_server.services.access import tokens
from nestor_server.settings import Settings
from testbed.server import new_database

USERS = 10
WAITING, QUICK_WAITING = (1, 1_000, 5_000), (1, 100)
FINISHED, QUICK_FINISHED = 10**5, 1_000
REPEATS, LIMIT = 9, 20.0  # claims of one row, and seconds after which it has enough


def rows(target: Target, *, quick: bool) -> Iterator[Row]:
    finished = QUICK_FINISHED if quick else FINISHED
    with _database(target) as (engine, sessions):
        with sessions.begin() as session:
            # Without autovacuum, the statistics stay as old as they are.
            session.execute(text("ALTER TABLE trials SET (autovacuum_enabled = off)"))
            tokens_of_users = [tokens.create(session, f"user {i}") for i in range(USERS)]
            ids = [tokens.authenticate(session, token).user_id for token in tokens_of_users]
            of_users = [studies.create(session, user, StudyCreate(name="load"))[0].id for user in ids]
        like = Recorder(sessions, tokens_of_users[0], str(of_users[0]))
        like.finish()
        queue = Queue(sessions, like.id, of_users)
        queue.add(finished, State.complete)
        _analyze(engine)
        for waiting in QUICK_WAITING if quick else WAITING:
            queue.add(waiting - queue.waiting, State.queued)
            name = f"{waiting:,} waiting, {finished:,} finished"
            yield _row(f"{name}, old statistics", engine, sessions)
        _analyze(engine)
        yield _row(f"{name}, new statistics", engine, sessions)


@contextmanager
def _database(target: Target) -> Iterator[tuple[Engine, Sessions]]:
    """A database without a server, whose reaper would send messages for the queue."""
    with new_database(target.services) as url:
        revisions.migrate(url)
        settings = Settings(database_url=url, redis_url=target.servers[0].settings.redis_url)
        engine = database.make_engine(settings, "benchmark")
        yield engine, database.make_sessions(engine, settings)
        engine.dispose()


class Queue:
    """Trials of several users, all alike."""

    def __init__(self, sessions: Sessions, like: UUID, of_users: list[UUID]) -> None:
        self._sessions, self._like, self._studies = sessions, like, of_users
        self._numbers, self.waiting = 1, 0

    def add(self, n: int, state: State) -> None:
        """`n` more trials, as many for each user."""
        with self._sessions.begin() as session:
            for i, study in enumerate(self._studies):
                own = n // USERS + (i < n % USERS)
                filling.trials(session, self._like, own, study=study, state=state, first=self._numbers)
        self._numbers += n // USERS + 1
        self.waiting += n if state is State.queued else 0


def _analyze(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("ANALYZE"))


def _row(name: str, engine: Engine, sessions: Sessions) -> Row:
    claims, statements = _repeat(engine, sessions, lambda session: leases.claim_next(session, uuid4(), "worker"))
    sweeps, _ = _repeat(engine, sessions, leases.sweep_expired)
    row: Row = {"case": name, "claims": len(claims)}
    row |= figures.quantiles(claims, "claim") | {"statements": statements}
    return row | {"sweep p50, ms": figures.quantiles(sweeps)["p50, ms"]}


def _repeat(engine: Engine, sessions: Sessions, run: Callable[[Session], object]) -> tuple[list[float], int]:
    """The seconds of each call of `run` in a transaction that is rolled back, and the number of its statements."""
    seconds, statements, began = list[float](), 0, monotonic()

    def count(*_: object) -> None:
        nonlocal statements
        statements += 1

    event.listen(engine, "before_cursor_execute", count)
    while len(seconds) < REPEATS and monotonic() - began < LIMIT:
        with sessions() as session:
            session.connection()  # which may have to be opened, or checked
            statements, start = 0, monotonic()
            run(session)
            seconds.append(monotonic() - start)
            session.rollback()
    event.remove(engine, "before_cursor_execute", count)
    return seconds, statements
