"""A thread that checks every few seconds for expired leases, lost messages, and data to delete."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from nestor.errors import Unavailable
from nestor_server.database import Sessions
from nestor_server.scheduling import leases, task_queue
from nestor_server.services.access import browser_sessions
from nestor_server.settings import Settings
from nestor_server.storage import garbage_collection, object_store
from nestor_server.webhooks import outbox

log = logging.getLogger(__name__)

LOCK = 0x6E65_7265_6170  # of all servers on one database, one works at a time
COLLECT_EVERY = 100  # runs


class Reaper(threading.Thread):
    """Calls `run_once` every `reap_seconds` until `stop`. Errors are logged, and the next run follows."""

    def __init__(self, sessions: Sessions, settings: Settings) -> None:
        super().__init__(name="reaper", daemon=True)
        self._sessions, self._seconds = sessions, settings.reap_seconds
        self._stopped = threading.Event()

    def run(self) -> None:
        """The thread's loop. Call `start` instead."""
        unavailable, n = False, 0
        while not self._stopped.wait(self._seconds):
            try:
                self.run_once(collect_garbage=n % COLLECT_EVERY == 0)
                n += 1
                with suppress(Unavailable), self._sessions.begin() as session:  # until the next run
                    object_store.delete_unused(session)
                if unavailable:
                    log.info("the database answers again")
                unavailable = False
            except SQLAlchemyError as error:
                if not unavailable:
                    log.warning("the database does not answer: %s", error)
                unavailable = True
            except Exception:
                log.exception("a run failed; the next one follows in %s s", self._seconds)

    def run_once(self, *, collect_garbage: bool = False) -> None:
        """Sweep expired leases and send messages again, unless another server does so at this moment.

        Args:
            collect_garbage: also delete old idempotency keys, notices and sessions, and data that has long been unused.
        """
        with self._sessions.begin() as session:
            if not session.scalar(select(func.pg_try_advisory_xact_lock(LOCK))):
                return
            for trial_id in leases.sweep_expired(session):
                task_queue.send_on_commit(session, trial_id)
            if collect_garbage:
                garbage_collection.purge_idempotency_keys(session)
                garbage_collection.purge_expired(session)
                outbox.purge(session)
                browser_sessions.purge(session)

    def stop(self) -> None:
        """End the thread, and wait for it for at most 10 seconds."""
        self._stopped.set()
        self.join(timeout=10)
