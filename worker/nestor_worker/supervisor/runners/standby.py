"""A prewarmed runner for each slot: it has loaded what takes seconds, so that a trial's first step does not wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nestor_worker.supervisor.runners.process import Runner

if TYPE_CHECKING:
    from nestor_worker.supervisor.attempt import Slot


class Standby:
    """Spawns one runner per slot before it is needed, if `enabled`."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._waiting: dict[str, Runner] = {}

    def prepare(self, slot: Slot) -> None:
        """Spawn the next runner of a slot that has become free."""
        if self._enabled:
            self._waiting[slot.name] = slot.spawn()

    def take(self, slot: Slot) -> Runner:
        """The slot's waiting runner if it is alive, else a new one. The caller must close it."""
        runner = self._waiting.pop(slot.name, None)
        if runner is not None and not runner.is_alive:
            runner.close()
            runner = None
        return runner or slot.spawn()

    def close(self) -> None:
        """End the runners that wait. Those that were taken belong to their callers."""
        while self._waiting:
            self._waiting.popitem()[1].close()
