"""What a trial in this process has recorded: its record, its events and its steps, which change together."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

from nestor import lifecycle
from nestor.ranking import Ranking
from nestor.results import verdicts
from nestor.results.progress.pace import UNKNOWN, Pace
from nestor.results.verdicts import Evidence
from nestor.schemas import Attempt, Event, EventType, State, Step
from nestor.schemas import Trial as TrialRecord


class Journal:
    """Each event is recorded together with the changes of the trial's record that it reports.

    Attributes:
        lock: guards the journal, and is notified of each event.
        record: the trial, with the verdict on its steps and the actions that its state allows.
        steps: in order of their numbers.
    """

    def __init__(self, record: TrialRecord, ranking: Ranking, *, n_hparams: int) -> None:
        self.lock = threading.Condition()
        self.record, self.steps = record, list[Step]()
        self._ranking, self._n_hparams = ranking, n_hparams
        self._events, self._evidence, self._pace = list[Event](), Evidence(), Pace()

    def copy(self, record: TrialRecord) -> Journal:
        """A journal of another trial that has recorded the same until now."""
        with self.lock:
            other = Journal(record, self._ranking, n_hparams=self._n_hparams)
            other.steps, other._events = [*self.steps], [*self._events]
            other._evidence, other._pace = self._evidence, self._pace
        return other

    @property
    def attempts(self) -> list[Attempt]:
        """In order of their numbers."""
        with self.lock:
            changes = [event.data for event in self._events if event.type is EventType.state]
        return lifecycle.attempts((data, datetime.fromisoformat(data["at"])) for data in changes)

    def events(self, after: int) -> list[Event]:
        """The events behind number `after`."""
        with self.lock:
            return self._events[after:]

    def wait(self, after: int, seconds: float) -> None:
        """Wait until there is an event behind number `after`, or for so many seconds."""
        with self.lock:
            self.lock.wait_for(lambda: len(self._events) > after, seconds)

    def append_step(self, step: Step, **changes: Any) -> None:
        """Record a step."""
        with self.lock:
            self.steps.append(step)
            self._evidence = self._evidence.after(step, self._ranking)
            if "seconds" in changes:
                self._pace = self._pace.after(self.record.attempt, step.number, changes["seconds"])
            self.append(EventType.step, step.model_dump(mode="json"), step=step.number, **changes)

    def withdraw_step(self, why: str) -> None:
        """Withdraw the last step, which is recorded anew."""
        with self.lock:
            self.steps.pop()
            self._evidence = Evidence.of(self.steps, self._ranking)
            self.append(EventType.rewind, {"step": len(self.steps), "why": why})

    def append_state(self, *, by: str, why: str, record: dict[str, Any] | None = None, **details: Any) -> None:
        """Record who changed what about the trial, and why; details that are None are left out."""
        with self.lock:
            changes = record or {}
            state = changes.get("state", self.record.state)
            known = {key: value for key, value in details.items() if value is not None}
            self.append(EventType.state, {"state": state.value, "by": by, "why": why, **known}, **changes)

    def append_log(self, step: int, text: str, level: str = "info") -> None:
        """Record a line of the log."""
        self.append(EventType.log, {"step": step, "level": level, "text": text})

    def append(self, kind: EventType, data: dict[str, Any], **changes: Any) -> None:
        """Record one event, with the changes of the trial's record that it reports."""
        with self.lock:
            seq, now = len(self._events) + 1, datetime.now(UTC)
            if kind is not EventType.step:
                data = {**data, "at": now.isoformat()}
            self._events.append(Event(seq=seq, type=kind, data=data))
            record = self.record.model_copy(update={"seq": seq, "last_activity_at": now, **changes})
            verdict = verdicts.judge(
                self._evidence,
                n_hparams=self._n_hparams,
                folds=record.spec.folds is not None,
                tunes=record.spec.response.tunes,
                validation_trains=record.spec.train_on == "train+val",
                retrains=record.spec.warm_start is not None and record.spec.warm_start.nudge is not None,
                error=record.error,
            )
            allowed = lifecycle.allowed_actions(record.state, record.desired)
            self.record = record.model_copy(
                update={"allowed_actions": allowed, "verdict": verdict, **self._progress(record)}
            )
            self.lock.notify_all()

    def _progress(self, record: TrialRecord) -> dict[str, float | None]:
        if record.state is not State.running:
            return UNKNOWN
        return self._pace.progress(
            record.attempt,
            step=record.step,
            last=record.n_steps,
            seconds=record.seconds,
            timeout=record.spec.timeout,
        )
