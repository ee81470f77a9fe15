"""One trial in this process: the engine's generator, the events of what it yields, and what its user asks of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from nestor import lifecycle
from nestor.errors import MetricUnknown
from nestor.lifecycle import Transition
from nestor.local.artifacts import Artifacts
from nestor.local.journal import Journal
from nestor.ranking import Ranking
from nestor.results import verdicts
from nestor.schemas import Action, Attempt, Desired, Event, EventType, State, Step, TrialPatch
from nestor.schemas import Trial as TrialRecord

if TYPE_CHECKING:
    from torch import Tensor

    import nestor_engine
    from nestor.options import Config
    from nestor_engine.tensors.generators import OwnGenerators

USER, WORKER = "user", "this process"  # who changes a trial, as its events say


class LocalTrial:
    """A trial, which this process runs as a worker would: by `nestor.lifecycle`, with the same events.

    Without a thread of its own a trial stands still until someone reads its events: the reader takes
    the steps, so that the problem's functions run in the user's thread, where debuggers look.
    """

    def __init__(
        self,
        record: TrialRecord,
        bilevel: nestor_engine.Bilevel,
        data: nestor_engine.Data,
        config: Config,
        *,
        start: nestor_engine.State | dict[str, Tensor] | None,
        device: str,
        ranking: Ranking,
    ) -> None:
        """
        Args:
            start: what another trial has reached, to begin with; None: the problem's initial values.

        Raises:
            StateInvalid: it is of another architecture.
        """
        from nestor_engine import start_from
        from nestor_engine.retraining import nudged

        self.cause: Exception | None = None
        self.bilevel, self.data, self.config = bilevel, data, config  # the problem at its first initialization
        self._bilevel = bilevel if start is None else start_from(bilevel, start)
        self._nudge = None if record.spec.warm_start is None else record.spec.warm_start.nudge
        if self._nudge is not None:
            self._bilevel = nudged(self._bilevel, self._nudge.number, size=self._nudge.size, seed=config.seed)
        self._data, self._config, self._device = data, config, device
        n_hparams = sum(value.numel() for value in self._bilevel.hparams.values())
        self._ranking, self._journal = ranking, Journal(record, ranking, n_hparams=n_hparams)
        self.artifacts = Artifacts(self._bilevel, self._journal)
        self._lock = self._journal.lock  # guards all of this
        self._generators: OwnGenerators | None = None
        self._engine: Iterator[nestor_engine.Step] | None = None
        self._began_at = 0.0  # of this attempt, on `time.monotonic`, earlier by what attempts before it have trained
        self._driving = threading.Lock()  # held by the thread that takes a step
        self._thread: threading.Thread | None = None
        self._journal.append_state(by=USER, why=lifecycle.WHY_SUBMITTED)

    def copy(self, **changes: Any) -> LocalTrial:
        """A trial that has recorded the same until now, with these fields of its record changed."""
        with self._lock:
            other = copy(self)
            other._journal = self._journal.copy(self.record.model_copy(update=changes))
            other.artifacts = self.artifacts.copy(other._journal)
        other._lock, other._driving = other._journal.lock, threading.Lock()
        other._generators = other._engine = other._thread = None
        return other

    @property
    def record(self) -> TrialRecord:
        """The trial as it stands."""
        return self._journal.record

    @property
    def steps(self) -> list[Step]:
        """In order of their numbers."""
        return self._journal.steps

    @property
    def in_background(self) -> bool:
        """Whether a thread of its own takes the steps."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def attempts(self) -> list[Attempt]:
        """In order of their numbers."""
        return self._journal.attempts

    def start(self) -> None:
        """Go on in a thread of its own."""
        self._thread = threading.Thread(target=self._drive, name=f"nestor-trial-{self.record.number}", daemon=True)
        self._thread.start()

    def start_if_waiting(self) -> None:
        """Go on in a thread of its own if the trial is queued and has none."""
        with self._lock:
            if self.record.state is State.queued and not self.in_background:
                self.start()

    def join(self) -> None:
        """Wait for the thread, if there is one."""
        if self._thread is not None:
            self._thread.join()

    # --- the user ---------------------------------------------------------------------------------

    def request(self, action: Action, after_step: int | None = None) -> TrialRecord:
        """Ask for `action`, which is done before the next step. Raises IllegalTransition.

        Args:
            after_step: the step that a callback saw. No step follows it, unless a thread takes them: then the trial
                ends where it is.
        """
        with self._lock:
            why, state = lifecycle.why_asked(action, after_step), self.record.state
            is_late = after_step is not None and (state, action) == (State.complete, "prune")
            match lifecycle.PRUNE if is_late else lifecycle.respond(state, self.record.desired, action):
                case Transition() as transition:
                    desired = lifecycle.MEANINGS[action].desired or Desired.run
                    self._apply(transition, by=USER, why=why, desired=desired)
                case Desired() as desired:
                    self._journal.append_state(by=USER, why=why, record={"desired": desired}, desired=desired.value)
                case None:
                    pass
        if self.record.desired in lifecycle.OBEDIENCE:
            self._take_turn(obey_only=True)
        return self.record

    def extend(self, steps: int) -> TrialRecord:
        """Take `steps` more. Raises IllegalTransition, InvalidInput."""
        with self._lock:
            state, record = self.record.state, self.record
            lifecycle.respond(state, record.desired, "extend")
            n_steps, spec = lifecycle.steps_after_extension(state, record.step, record.n_steps, steps), record.spec
            # A user who asks for more steps wants them taken, whatever early stopping or the clock say.
            update: dict[str, Any] = {"n_steps": n_steps}
            spec = spec.model_copy(update={"timeout": None})
            if self._config.early_stopping is not None:
                update["early_stopping"] = replace(self._config.early_stopping, min_steps=n_steps)
                spec = spec.model_copy(update={"early_stopping": update["early_stopping"]})
            self._config = self._config.model_copy(update=update)
            self._engine = None
            changes = {"desired": Desired.run, "n_steps": n_steps, "spec": spec}
            self._apply(lifecycle.EXTEND, by=USER, why=lifecycle.why_extended(steps), **changes)
            return self.record

    def prioritize(self, priority: int) -> TrialRecord:
        """Record the priority, which has no effect: no trial waits for another in this process."""
        with self._lock:
            if priority != self.record.priority:
                self._journal.append_state(
                    by=USER, why=lifecycle.why_prioritized(priority), record={"priority": priority}
                )
            return self.record

    def change(self, patch: TrialPatch) -> TrialRecord:
        """Change attributes, tags and note."""
        with self._lock:
            before = self.record
            changed = patch.apply(before.user_attrs, before.tags, before.note)
            self._journal.record = before.model_copy(update=changed)
            return self.record

    # --- what was recorded ------------------------------------------------------------------------

    def events(self, after: int = 0) -> Iterator[Event]:
        """The events behind `after`. They also end, without `end`, where a pause leaves nobody who would go on."""
        while True:
            with self._lock:
                fresh, state = self._journal.events(after), self.record.state
            yield from fresh
            after += len(fresh)
            if fresh:
                continue
            if state.finished:
                end = {"state": state.value, "error": self.record.error, "seq": after}
                yield Event(seq=after, type=EventType.end, data=end)
            if state.finished or state is State.paused:
                return
            if not self._take_turn():
                self._journal.wait(after, seconds=1.0)  # a thread takes the steps

    # --- one turn after the other -----------------------------------------------------------------

    def _drive(self) -> None:
        with self._driving:
            while self._advance():
                pass

    def _take_turn(self, *, obey_only: bool = False) -> bool:
        """Take a step, unless someone else is taking them; whether it was us."""
        if not self._driving.acquire(blocking=False):
            return False
        try:
            if not obey_only or self.record.desired is not Desired.run:
                self._advance()
            return True
        finally:
            self._driving.release()

    def _advance(self) -> bool:
        """Obey the desired state, begin an attempt, or take one step; whether there is more to do."""
        with self._lock:
            state, desired = self.record.state, self.record.desired
            if state is State.queued:
                self._claim()
            elif state is not State.running:
                return False
        if state is State.running and desired in lifecycle.OBEDIENCE:
            return self._obey(desired)
        if state is State.running and self._time_is_up:
            return self._complete()
        try:
            trajectory = self._trajectory()
            with self._own_generators():
                step = next(trajectory, None)
        except Exception as error:
            self._fail(error)
            return False
        except BaseException:
            self._engine = None  # Ctrl-C in the middle of a step: that step is taken again, from the last state
            raise
        with self._lock:
            if step is not None:
                return self._take(step)
            self._engine = None
            last = self.artifacts.last
            if last is not None and not self._config.has_ended(last.number, last.state.steps_since_best):
                return True  # a user or the clock ended the trajectory: if it was not withdrawn, the next turn obeys
        return self._complete()

    def _obey(self, desired: Desired) -> bool:
        """End the attempt as desired; whether there is more to do."""
        if desired is not Desired.cancel and not self._evaluate_last():
            return False
        with self._lock:
            if self.record.desired is not desired:  # it was withdrawn meanwhile
                return True
            obedience = lifecycle.OBEDIENCE[desired]
            self._end(obedience.transition, obedience.why)
            return False

    def _complete(self) -> bool:
        """End the trial after all of its steps or of its time; whether there is more to do."""
        if not self._evaluate_last():
            return False
        with self._lock:
            why = lifecycle.why_complete(self.record.step, self.record.n_steps, time_is_up=self._time_is_up)
            self._end(lifecycle.COMPLETE, why)
            return False

    @property
    def _time_is_up(self) -> bool:
        """Whether the trial had trained for its whole time at its last step."""
        timeout = self.record.spec.timeout
        return timeout is not None and self.record.seconds >= timeout

    def _trajectory(self) -> Iterator[nestor_engine.Step]:
        from nestor_engine import optimize
        from nestor_engine.retraining import with_predictions

        if self._engine is None:
            state, config = self.artifacts.state, self._config
            self._engine = optimize(self._bilevel, self._data, config, state, ending=self._is_ending)
            if self._nudge is not None and self._nudge.number is None:
                self._engine = with_predictions(
                    self._engine, self._bilevel, config.n_steps, size=self._nudge.size, seed=config.seed
                )
        return self._engine

    def _is_ending(self) -> bool:
        """Whether the step under way is the last, because the user or the clock ends the attempt."""
        desired, timeout = self.record.desired, self.record.spec.timeout
        is_asked = desired in lifecycle.OBEDIENCE and desired is not Desired.cancel
        return is_asked or (timeout is not None and time.monotonic() - self._began_at >= timeout)

    def _evaluate_last(self) -> bool:
        """Evaluate the last step if it was not, and record it anew; whether that went well, else the trial fails."""
        from nestor_engine import evaluated

        last = self.artifacts.last
        if last is None or last.value is not None:
            return True
        try:
            with self._own_generators():
                step = evaluated(self._bilevel, self._data, self._config, last)
        except Exception as error:
            self._fail(error)
            return False
        with self._lock:
            self._journal.withdraw_step(lifecycle.WHY_AGAIN)
            return self._take(step, again=True)

    def _own_generators(self) -> AbstractContextManager[object]:
        """The user's threads, and other trials, have other random numbers."""
        if self._generators is None:
            from nestor_engine.tensors.generators import OwnGenerators

            self._generators = OwnGenerators()
        return self._generators

    def _claim(self) -> None:
        """Begin an attempt, from the last step."""
        number, first = self.record.attempt + 1, self.record.step
        started_at = self.record.started_at or datetime.now(UTC)
        self._apply(lifecycle.CLAIM, by=WORKER, why=lifecycle.WHY_CLAIMED, attempt=number, started_at=started_at)
        if first == 0:
            self.artifacts.keep_initial()
        self._journal.append_log(first, lifecycle.where_it_starts(self._device, first))
        self._began_at = time.monotonic() - self.record.seconds  # as if it had trained without a pause

    def _take(self, step: nestor_engine.Step, *, again: bool = False) -> bool:
        """Record a step; whether it can be ranked, else the trial fails."""
        taken, metric = Step.model_validate(step.record()), self._ranking.metric
        changes: dict[str, Any] = {} if again else {"seconds": time.monotonic() - self._began_at}
        if step.value is not None:
            try:
                self._ranking.expect(step.metrics)
            except MetricUnknown as error:
                self._fail(error)
                return False
            changes["value"] = value = step.value_of(metric)
            if self.record.first_value is None:
                changes |= {"first_value": value}
            if self._ranking.is_better(value, self.record.best_value):
                changes |= {"best_value": value, "best_step": taken.number}
        self.artifacts.keep(step, is_best="best_step" in changes)
        self._journal.append_step(taken, **changes)
        self.artifacts.report_due(taken.number)
        for warning in (*(() if again else taken.warnings), *self.artifacts.news()):
            self._journal.append_log(taken.number, warning, "warning")
        return True

    def _fail(self, error: Exception) -> None:
        problem = lifecycle.failure(error).problem()
        with self._lock:
            self.cause = error
            self._apply(lifecycle.FAIL, by=WORKER, why=problem["detail"], error=problem)

    def _end(self, transition: Transition, why: str) -> None:
        """End the attempt, and report the snapshots of its best and its last step."""
        self.artifacts.report_last()
        self._apply(transition, by=WORKER, why=why)

    def _apply(self, transition: Transition, *, by: str, why: str, **changes: Any) -> None:
        """Make a transition, and go on in the background where it queues the trial again."""
        target = transition.target
        with self._lock:
            assert self.record.state in transition.sources
            changes = {**lifecycle.changes_on_entry(target, datetime.now(UTC)), **changes}
            changes |= {"state": target, "worker": WORKER if target is State.running else None}
            attempt, error = changes.get("attempt", self.record.attempt), changes.get("error")
            if target is State.complete and (warning := verdicts.warning(self.record.verdict)):
                self._journal.append_log(self.record.step, warning, "warning")
            self._journal.append_state(by=by, why=why, record=changes, attempt=attempt, error=error)
            if target.finished:
                self._engine = None
            if target is State.queued:
                self.cause = None
                self.start()
