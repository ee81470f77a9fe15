"""What a worker counts: collected in memory, and added to the counters in the database with each heartbeat."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping

from sqlalchemy.exc import DBAPIError

from nestor.schemas import Step
from nestor_server.database import Sessions
from nestor_server.observability import counts
from nestor_server.observability.counts import COUNTERS, Key
from nestor_server.scheduling.recording import RecordedBatch

MAX_SECONDS = 1e6  # of a phase of a step, as a runner reports it


class Tally:
    """Counts since they were last written. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: dict[Key, float] = {}

    def recorded(self, batch: RecordedBatch) -> None:
        """Count what is in a batch that was recorded."""
        self._add({("steps_recorded", ""): len(batch.steps)})
        for step in batch.steps:
            self._add(_seconds(step))
        files = {"checkpoint": batch.checkpoints, "snapshot": batch.snapshots, "result": batch.results}
        self._add({("recorded_bytes", kind): sum(len(file.data) for file in some) for kind, some in files.items()})

    def ended(self, how: str) -> None:
        """Count the end of an attempt."""
        self._add({("attempts_ended", how): 1})

    def write(self, sessions: Sessions) -> None:
        """Add to the counters.

        Raises:
            DBAPIError: the database does not answer. The next call adds the same and more.
        """
        with self._lock:
            counted, self._counted = self._counted, {}
        try:
            with sessions.begin() as session:
                counts.add(session, counted)
        except DBAPIError:
            self._add(counted)
            raise

    def _add(self, new: Mapping[Key, float]) -> None:
        with self._lock:
            for key, n in new.items():
                self._counted[key] = self._counted.get(key, 0) + n


def _seconds(step: Step) -> dict[Key, float]:
    """The seconds by phase. A runner can send anything."""
    known = ((phase, step.seconds.get(phase, 0.0)) for phase in COUNTERS["step_seconds"].values)
    return {("step_seconds", phase): s for phase, s in known if math.isfinite(s) and 0 <= s < MAX_SECONDS}
