"""Looks every few seconds for what nobody else will: lost leases, lost messages, and what may be forgotten."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress

from sqlalchemy import delete, func, select
from sqlalchemy.exc import SQLAlchemyError

from nestor.errors import Unavailable
from nestor_server.database import Sessions
from nestor_server.models import IDEMPOTENCY_WINDOW, IdempotencyKey
from nestor_server.scheduling import leases, task_queue
from nestor_server.settings import Settings
from nestor_server.storage import garbage_collection, object_store

log = logging.getLogger(__name__)

LOCK = 0x6E65_7265_6170  # of all servers on one database, one looks at a time
TIDY_EVERY = 100  # looks


class Reaper(threading.Thread):
    def __init__(self, sessions: Sessions, settings: Settings) -> None:
        super().__init__(name="reaper", daemon=True)
        self._sessions, self._seconds = sessions, settings.reap_seconds
        self._stopped = threading.Event()

    def run(self) -> None:
        away, looks = False, 0
        while not self._stopped.wait(self._seconds):
            try:
                self.look(tidy=looks % TIDY_EVERY == 0)
                looks += 1
                with suppress(Unavailable), self._sessions.begin() as session:  # it will answer one day
                    object_store.delete_unused(session)
                if away:
                    log.info("the database is back")
                away = False
            except SQLAlchemyError as error:
                if not away:
                    log.warning("the database is away: %s", error)
                away = True
            except Exception:
                log.exception("a look failed; the next one follows in %s s", self._seconds)

    def look(self, *, tidy: bool = False) -> None:
        with self._sessions.begin() as session:
            if not session.scalar(select(func.pg_try_advisory_xact_lock(LOCK))):
                return
            for trial_id in leases.reap(session):
                task_queue.send_on_commit(session, trial_id)
            if tidy:
                session.execute(
                    delete(IdempotencyKey).where(IdempotencyKey.created_at < func.now() - IDEMPOTENCY_WINDOW)
                )
                garbage_collection.purge_expired(session)

    def stop(self) -> None:
        self._stopped.set()
        self.join(timeout=10)
