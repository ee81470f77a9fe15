"""The Celery task. A message says that a trial may wait; the database says which one, if any."""

from __future__ import annotations

import logging
import queue
import threading
from uuid import UUID

from sqlalchemy.orm import Session

from nestor_server.database import Sessions
from nestor_server.observability import logs
from nestor_server.scheduling import leases
from nestor_server.scheduling.entry_points import Offers
from nestor_server.scheduling.leases import Lease
from nestor_server.settings import Settings
from nestor_worker.supervisor.attempt import Slot, supervise
from nestor_worker.supervisor.heartbeat import Presence
from nestor_worker.supervisor.runners.standby import Standby

log = logging.getLogger(__name__)


class Tasks:
    """The Celery task of one worker, with the slots that its threads share."""

    def __init__(
        self,
        sessions: Sessions,
        settings: Settings,
        slots: list[Slot],
        standby: Standby,
        presence: Presence,
        draining: threading.Event,
        offers: Offers,
    ) -> None:
        self._sessions, self._settings, self._presence, self._draining = sessions, settings, presence, draining
        self._standby, self._offers = standby, offers
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for slot in slots:
            self._free.put(slot)

    def run_trial(self, trial_id: str) -> None:
        """Run one trial after the other until none waits. `trial_id` is only a hint about which."""
        slot = self._free.get()
        try:
            # If this worker drains, the reaper sends another message, which another worker receives.
            while not self._draining.is_set() and (lease := self._claim(UUID(trial_id), slot)):
                self._run(lease, slot)
        finally:
            self._free.put(slot)

    def _claim(self, trial_id: UUID, slot: Slot) -> Lease | None:
        def claim(session: Session) -> Lease | None:
            return leases.claim_next(session, trial_id, slot.name, devices=len(slot.devices), offers=self._offers)

        return self._presence.claim(slot.name, claim)

    def _run(self, lease: Lease, slot: Slot) -> None:
        with logs.about(trial_id=lease.trial_id, attempt=lease.attempt, worker=slot.name):
            with self._presence.busy(slot.name) as attach:
                runner = self._standby.take(slot)
                attach(runner)
                state = supervise(self._sessions, self._settings, lease, slot, runner, self._draining)
            log.info("trial %s: %s", lease.trial_id, state)
