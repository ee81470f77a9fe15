"""One trial in this process: the engine's generator, the journal of what it yields, and what its user wants of it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from nestor.errors import CheckpointNotFound, HyperparametersNotFound, IllegalTransition, InvalidInput, NestorError
from nestor.schemas import (
    MOST_STEPS,
    Action,
    Attempt,
    Desired,
    EarlyStopping,
    Event,
    EventType,
    HyperparameterInfo,
    Hyperparameters,
    State,
    Step,
    WarmStart,
)
from nestor.schemas import Trial as TrialRecord

if TYPE_CHECKING:
    from torch import Tensor

    import nestor_engine

_WISHES: dict[Action, tuple[Desired, State]] = {
    "stop": (Desired.stop, State.complete),
    "cancel": (Desired.cancel, State.cancelled),
    "pause": (Desired.pause, State.paused),
    "resume": (Desired.run, State.running),
    "retry": (Desired.run, State.running),
}
_ALLOWED = {State.complete: "extend", State.failed: "retry"}


class Run:
    """A trial and its trajectory.

    Without a thread of its own a run stands still until someone reads its events: the reader takes
    the steps, so that the problem's functions run in the user's thread, where debuggers look.
    """

    def __init__(
        self,
        record: TrialRecord,
        bilevel: nestor_engine.Bilevel,
        data: nestor_engine.Data,
        config: nestor_engine.Config,
    ) -> None:
        self.record, self.cause = record, None
        self.steps: list[Step] = []
        self.attempts: list[Attempt] = []
        self._bilevel, self._data, self._config = bilevel, data, config
        self._changed = threading.Condition()  # guards all of this
        self._journal: list[Event] = []
        self._snapshots: dict[int, dict[str, Tensor]] = {0: dict(bilevel.hparams)}
        self._engine: Iterator[nestor_engine.Step] | None = None
        self._state: nestor_engine.State | None = None  # after the last step
        self._driving = threading.Lock()  # held by whoever takes a step
        self._thread: threading.Thread | None = None
        self._enter(State.queued)

    @property
    def in_background(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Go on in a thread of its own."""
        self._thread = threading.Thread(target=self._drive, name=f"nestor-trial-{self.record.number}", daemon=True)
        self._thread.start()

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def request(self, action: Action) -> TrialRecord:
        desired, target = _WISHES[action]
        with self._changed:
            state = self.record.state
            legal = not state.finished
            if state is State.failed and action == "retry":
                return self._begin_again()
            if not legal and state is not target:
                raise _illegal(state, action)
            if legal:
                self.record = self.record.model_copy(update={"desired": desired})
            if legal and state is State.paused and desired is not Desired.pause:
                self._enter(State.queued)
                if desired is Desired.run:
                    self.start()
        self._take_turn(wishes_only=True)
        return self.record

    def extend(self, steps: int) -> TrialRecord:
        with self._changed:
            state, record = self.record.state, self.record
            if state not in (State.complete, State.paused):
                raise _illegal(state, "extend")
            n_steps = (record.step if state is State.complete else record.n_steps) + steps
            if n_steps > MOST_STEPS:
                raise InvalidInput(reason=f"That makes {n_steps:,} steps in all; a trial takes at most {MOST_STEPS:,}.")
            outer, spec = replace(self._config.outer, steps=n_steps), record.spec
            self._config = replace(self._config, n_steps=n_steps, outer=outer)
            if self._config.stop_early is not None:  # who asks for more steps wants them taken
                stop_early = replace(self._config.stop_early, least_steps=n_steps)
                self._config = replace(self._config, stop_early=stop_early)
                spec = spec.model_copy(update={"stop_early": EarlyStopping(**vars(stop_early))})
            self._engine = None
            return self._begin_again(n_steps=n_steps, spec=spec)

    def prioritise(self, priority: int) -> TrialRecord:
        with self._changed:  # kept, and of no effect: nobody waits for anybody here
            self.record = self.record.model_copy(update={"priority": priority})
            return self.record

    def reached(self, start: WarmStart) -> tuple[WarmStart, nestor_engine.State | dict[str, Tensor]]:
        """What another trial may start from, and `start` with the step that it means."""
        with self._changed:
            if not start.weights:
                step = max(self._snapshots) if start.step is None else start.step
                found = self._snapshots.get(step)
            else:
                step = self.record.step if start.step is None else start.step
                found = self._state if self._state is not None and self._state.step == step else None
        if found is None:
            missing = CheckpointNotFound if start.weights else HyperparametersNotFound
            raise missing(trial=str(self.record.id), what=f"of step {step}")
        return start.model_copy(update={"step": step}), found

    def events(self, after: int = 0) -> Iterator[Event]:
        """The journal behind `after`. It also ends, without `end`, where a pause leaves nobody who would go on."""
        while True:
            with self._changed:
                fresh, state = self._journal[after:], self.record.state
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
                with self._changed:  # a thread takes the steps
                    self._changed.wait_for(lambda after=after: len(self._journal) > after, timeout=1.0)

    def hyperparameters(self) -> Hyperparameters:
        items = tuple(
            HyperparameterInfo(
                name=name,
                shape=tuple(value.shape),
                dtype=str(value.dtype).removeprefix("torch."),
                transform=self._bilevel.transforms.get(name, "identity"),
            )
            for name, value in self._bilevel.hparams.items()
        )
        with self._changed:
            return Hyperparameters(items=items, steps=tuple(sorted(self._snapshots)), seq=self.record.seq)

    def snapshot(self, step: int | None) -> bytes:
        import safetensors.torch

        with self._changed:
            at = max(self._snapshots) if step is None else step
            found = self._snapshots.get(at)
        if found is None:
            raise HyperparametersNotFound(trial=str(self.record.id), what=f"of step {step}")
        # Cloned: tensors that share memory cannot be saved.
        return safetensors.torch.save({name: value.detach().cpu().clone() for name, value in found.items()})

    def checkpoint(self) -> bytes:
        with self._changed:
            state = self._state
        if state is None:
            raise CheckpointNotFound(trial=str(self.record.id), what="yet")
        return state.save()

    def _begin_again(self, **changes: Any) -> TrialRecord:
        self.cause = None
        self._enter(State.queued, desired=Desired.run, finished_at=None, error=None, **changes)
        self.start()
        return self.record

    # --- one turn after the other -----------------------------------------------------------------

    def _drive(self) -> None:
        with self._driving:
            while self._advance():
                pass

    def _take_turn(self, *, wishes_only: bool = False) -> bool:
        """Take a step, unless someone else is taking them; whether it was us."""
        if not self._driving.acquire(blocking=False):
            return False
        try:
            if not wishes_only or self.record.desired is not Desired.run:
                self._advance()
            return True
        finally:
            self._driving.release()

    def _advance(self) -> bool:
        """Grant the user's wish or take one step; whether there is more to do."""
        with self._changed:
            if self.record.state.finished or self.record.state is State.paused:
                return False
            for desired, state in _WISHES.values():
                if self.record.desired is desired is not Desired.run:
                    self._enter(state)
                    return False
            if self.record.state is State.queued:
                self._enter(State.running)
        try:
            step = next(self._trajectory(), None)
        except Exception as error:
            self._fail(error)
            return False
        except BaseException:
            self._engine = None  # Ctrl-C in the middle of a step: that step is taken again, from the last state
            raise
        with self._changed:
            if step is None:
                self._enter(State.complete)
                return False
            self._take(step)
        return True

    def _trajectory(self) -> Iterator[nestor_engine.Step]:
        from nestor_engine import optimize

        if self._engine is None:
            self._engine = optimize(self._bilevel, self._data, self._config, self._state)
        return self._engine

    def _take(self, step: nestor_engine.Step) -> None:
        taken = Step.model_validate(step.record())
        best = self.record.best_value
        better = best is None or taken.value < best
        self._keep(taken.number, step.state.hparams, better=better)
        self._state = step.state
        self.steps.append(taken)
        changes: dict[str, Any] = {"step": taken.number, "value": taken.value}
        if better:
            changes |= {"best_value": taken.value, "best_step": taken.number}
        self._tell(EventType.step, taken.model_dump(mode="json"), **changes)

    def _keep(self, number: int, hparams: dict[str, Tensor], *, better: bool) -> None:
        from nestor_engine.training.retention import keeps, outlived, snapshot_interval

        every = snapshot_interval(sum(value.nbytes for value in hparams.values()), self._config.n_steps)
        best = number if better else self.record.best_step
        # The last two were kept for a reason that may not hold any more.
        for step in (*outlived(number, every), self.record.step, self.record.best_step):
            if step is not None and step != best and not keeps(step, number, every):
                self._snapshots.pop(step, None)
        self._snapshots[number] = hparams  # the engine replaces tensors and never writes into them

    def _fail(self, error: Exception) -> None:
        self.cause = error
        code, detail = _described(error)
        title = code.replace("-", " ").title()
        problem = {"type": "about:blank", "title": title, "status": 500, "detail": detail, "code": code}
        with self._changed:
            self._enter(State.failed, error=problem)

    def _enter(self, state: State, **changes: Any) -> None:
        now = datetime.now(UTC)
        if state is State.running:
            changes |= {"started_at": self.record.started_at or now, "attempt": self.record.attempt + 1}
            self.attempts.append(Attempt(number=changes["attempt"], worker=None, started_at=now))
        elif self.record.state is State.running:
            why = (changes.get("error") or {}).get("detail")
            ended = {"ended_at": now, "state": state, "why": why}
            self.attempts[-1] = self.attempts[-1].model_copy(update=ended)
        if state.finished:
            changes["finished_at"] = now
            self._engine = None
        self._tell(EventType.state, {"state": state.value, "at": now.isoformat()}, state=state, **changes)

    def _tell(self, kind: EventType, data: dict[str, Any], **changes: Any) -> None:
        with self._changed:
            seq = len(self._journal) + 1
            self._journal.append(Event(seq=seq, type=kind, data=data))
            self.record = self.record.model_copy(update={"seq": seq, **changes})
            self._changed.notify_all()


def _illegal(state: State, action: str) -> IllegalTransition:
    return IllegalTransition(state=state.value, action=action, allowed=_ALLOWED.get(state, "nothing"))


def _described(error: Exception) -> tuple[str, str]:
    """(code, sentence), as a worker would tell it."""
    from nestor_engine.errors import is_out_of_memory

    if isinstance(error, NestorError):
        return error.code(), str(error)
    if is_out_of_memory(error):
        detail = "The device ran out of memory. Try a smaller model, smaller batches, or a larger device."
        return "out-of-memory", detail
    name = re.sub(r"^builtins\.", "", f"{type(error).__module__}.{type(error).__qualname__}")
    return "problem-failed", f"The problem's own functions failed with {name}: {error}"
