"""The Celery task: a message says that a trial may be waiting; the database says whether it is."""

from __future__ import annotations

import logging
import queue
import threading
from uuid import UUID

from nestor_server.database import Sessions
from nestor_server.services import lifecycle
from nestor_server.settings import Settings
from nestor_worker.heartbeat import Presence
from nestor_worker.standby import Standby
from nestor_worker.supervisor import Slot, supervise

log = logging.getLogger(__name__)


class Tasks:
    """What the tasks of one worker share."""

    def __init__(
        self,
        sessions: Sessions,
        settings: Settings,
        slots: list[Slot],
        standby: Standby,
        presence: Presence,
        draining: threading.Event,
    ) -> None:
        self._sessions, self._settings, self._presence, self._draining = sessions, settings, presence, draining
        self._standby = standby
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for slot in slots:
            self._free.put(slot)

    def run_trial(self, trial_id: str) -> None:
        """Claim the trial and see it through; a message for one that is not queued, or not any more, is dropped."""
        if self._draining.is_set():
            return  # the reaper sends another message, to a worker that stays
        slot = self._free.get()
        try:
            with self._sessions.begin() as session:
                lease = lifecycle.claim(session, UUID(trial_id), slot.name)
            if lease is None:
                log.info("trial %s is not queued; its message is dropped", trial_id)
                return
            self._presence.runs(slot.name, lease.trial_id)
            try:
                runner = self._standby.take(slot)
                state = supervise(self._sessions, self._settings, lease, slot, runner, self._draining)
                log.info("trial %s: %s", trial_id, state)
            finally:
                self._presence.runs(slot.name, None)
                if not self._draining.is_set():
                    self._standby.prepare(slot)
        finally:
            self._free.put(slot)
