"""The Celery task: a message says that a trial may be waiting; the database says whether one is, and which."""

from __future__ import annotations

import logging
import queue
import threading
from uuid import UUID

from nestor_server.database import Sessions
from nestor_server.scheduling import leases
from nestor_server.scheduling.leases import Lease
from nestor_server.settings import Settings
from nestor_worker.supervisor.attempt import Slot, supervise
from nestor_worker.supervisor.heartbeat import Presence
from nestor_worker.supervisor.prewarmed import Standby

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
        """Run one trial after the other as long as any waits; a message that comes when none does is dropped."""
        slot = self._free.get()
        try:
            # When it is draining, the reaper sends another message, to a worker that stays.
            while not self._draining.is_set() and (lease := self._claim(UUID(trial_id), slot)):
                self._run(lease, slot)
        finally:
            self._free.put(slot)

    def _claim(self, trial_id: UUID, slot: Slot) -> Lease | None:
        with self._sessions.begin() as session:
            return leases.claim_next(session, trial_id, slot.name, devices=len(slot.devices))

    def _run(self, lease: Lease, slot: Slot) -> None:
        self._presence.runs(slot.name, lease.trial_id)
        try:
            runner = self._standby.take(slot)
            state = supervise(self._sessions, self._settings, lease, slot, runner, self._draining)
            log.info("trial %s: %s", lease.trial_id, state)
        finally:
            self._presence.runs(slot.name, None)
            if not self._draining.is_set():
                self._standby.prepare(slot)
