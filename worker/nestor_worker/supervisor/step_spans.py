"""The spans of an attempt's steps: one for each stretch of time, and below it one for the recording that ends it.

Stretches double up to a minute. So short trials show each recording, and long ones do not fill a trace.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager

from nestor_server.observability import traces
from nestor_server.scheduling.recording import RecordedBatch

FIRST_SECONDS, MAX_SECONDS = 1.0, 60.0


class StepSpans:
    """The spans of one attempt, below its own."""

    def __init__(self) -> None:
        self._span: traces.Span | None = None
        self._seconds = FIRST_SECONDS

    def begin(self) -> None:
        """A stretch begins."""
        self._span = traces.begin("steps")
        self._ends_at = time.monotonic() + self._seconds
        self._first: int | None = None
        self._n_steps = self._n_recordings = 0

    @contextmanager
    def recording(self, batch: RecordedBatch, *, is_last: bool) -> Generator[None]:
        """Record `batch` inside the block. The stretch ends with it if it took its time, or if it `is_last`."""
        if self._span is None:
            self.begin()
        if not (is_last or time.monotonic() >= self._ends_at):
            yield
            self._count(batch)
            return
        assert self._span is not None
        try:
            with self._span.active():
                with traces.begin("record", steps=len(batch.steps)).active():
                    yield
                self._count(batch)
        finally:
            self._span = None
            self._seconds = min(2 * self._seconds, MAX_SECONDS)

    def end(self) -> None:
        """The attempt takes no more steps."""
        if self._span is not None:
            self._span.end()
            self._span = None

    def _count(self, batch: RecordedBatch) -> None:
        if self._span is None:
            return
        self._n_steps, self._n_recordings = self._n_steps + len(batch.steps), self._n_recordings + 1
        if batch.steps:
            self._first = batch.steps[0].number if self._first is None else self._first
            self._span.note(first_step=self._first, last_step=batch.steps[-1].number)
        self._span.note(steps=self._n_steps, recordings=self._n_recordings)
