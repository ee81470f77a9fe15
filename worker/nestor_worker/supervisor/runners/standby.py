"""A prewarmed runner for each slot: it has loaded what takes seconds, so that a trial's first step does not wait."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nestor_worker.supervisor.runners.process import Runner

if TYPE_CHECKING:
    from nestor_worker.supervisor.attempt import Slot

log = logging.getLogger(__name__)


class Standby:
    """Spawns one runner per slot before it is needed, if `enabled`: also that of the next trial while one runs."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._waiting: dict[str, Runner] = {}

    def prepare(self, slot: Slot) -> None:
        """Spawn the next runner of a slot. If that is not possible, `take` tries it again."""
        if self._enabled:
            try:
                self._waiting[slot.name] = slot.spawn()
            except OSError as error:  # no memory, too many processes, or a full disk
                log.warning("no runner waits for the next trial of %s: %s", slot.name, error)

    def take(self, slot: Slot) -> Runner:
        """The slot's waiting runner if it is alive, else a new one; the next one is prepared. The caller must close it.

        Raises:
            OSError: no runner waited, and none can be spawned.
        """
        runner = self._waiting.pop(slot.name, None)
        if runner is not None and not runner.is_alive:
            runner.close()
            runner = None
        runner = runner or slot.spawn()
        self.prepare(slot)
        return runner

    def close(self) -> None:
        """End the runners that wait. Those that were taken belong to their callers."""
        while self._waiting:
            self._waiting.popitem()[1].close()
