"""The backend without a server: studies that live in this process, and end with it."""

from __future__ import annotations

import atexit
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Never
from uuid import UUID, uuid4

from nestor import lifecycle
from nestor.errors import LocalNotPicklable, OneDeviceOnly, StudyExists, StudyNotFound, TrialNotFound
from nestor.local.trial_runner import LocalTrial
from nestor.schemas import (
    Action,
    Attempt,
    Desired,
    EntryPointProblem,
    Event,
    Hyperparameters,
    ProgramProblem,
    State,
    Step,
    StudyCreate,
    TrialCreate,
    TrialExtend,
    TrialPriority,
    build,
)
from nestor.schemas import Study as StudyRecord
from nestor.schemas import Trial as TrialRecord

if TYPE_CHECKING:
    from nestor.entry_points import EntryPoint
    from nestor.options import Config
    from nestor_engine.problem.entry_points import Trainable
    from nestor_engine.program.export import Program


class Local:
    """Studies and trials by id, in memory. The methods are those of `nestor.backend.Backend`."""

    ships = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._studies: dict[UUID, StudyRecord] = {}
        self._trials: dict[UUID, LocalTrial] = {}

    def __repr__(self) -> str:
        return "this process"

    def __reduce__(self) -> Never:
        raise LocalNotPicklable

    def __deepcopy__(self, memo: object) -> Local:
        return self  # a copy of a study is the same study

    # --- studies ----------------------------------------------------------------------------------

    def create_study(self, new: StudyCreate) -> StudyRecord:
        """Create a study, or return the one of the same name if `new.load_if_exists`.

        Raises:
            StudyExists: there is one, and `new.load_if_exists` is False.
        """
        with self._lock:
            there = next((study for study in self._studies.values() if study.name == new.name), None)
            if there is None:
                now = datetime.now(UTC)
                kept = new.model_dump(exclude={"load_if_exists"})
                there = StudyRecord(
                    id=uuid4(), created_at=now, updated_at=now, trial_counts={}, best_value=None, **kept
                )
                self._studies[there.id] = there
            elif not new.load_if_exists:
                raise StudyExists(name=new.name)
        return self.study(there.id)

    def find_study(self, name: str) -> StudyRecord:
        """The study of that name.

        Raises:
            StudyNotFound: this process has no such study.
        """
        return self.study(next((study.id for study in self._studies.values() if study.name == name), name))

    def study(self, study_id: UUID | str) -> StudyRecord:
        """A study, with its trials counted and its best value as of now.

        Raises:
            StudyNotFound: this process has no such study.
        """
        found = self._studies.get(study_id) if isinstance(study_id, UUID) else None
        if found is None:
            raise StudyNotFound(study=str(study_id))
        trials = self.trials(found.id)
        values = [trial.best_value for trial in trials if trial.best_value is not None]
        counts = Counter(trial.state.value for trial in trials)
        return found.model_copy(update={"trial_counts": dict(counts), "best_value": min(values, default=None)})

    def studies(self) -> Iterator[StudyRecord]:
        """Newest first."""
        return (self.study(study_id) for study_id in reversed(list(self._studies)))

    def set_user_attrs(self, study_id: UUID, changes: dict[str, Any]) -> StudyRecord:
        """Set some user attributes and leave the others."""
        with self._lock:
            before = self.study(study_id)
            changed = {"user_attrs": before.user_attrs | changes, "updated_at": datetime.now(UTC)}
            self._studies[study_id] = before.model_copy(update=changed)
        return self.study(study_id)

    def delete_study(self, study_id: UUID) -> None:
        """Delete a study and its trials; running ones are canceled first.

        Raises:
            StudyNotFound: this process has no such study.
        """
        for trial in self.trials(self.study(study_id).id):
            if not trial.state.finished:
                self.request(trial.id, "cancel")
            self._trials.pop(trial.id).forget()
        del self._studies[study_id]

    # --- trials -----------------------------------------------------------------------------------

    def submit(
        self,
        study_id: UUID,
        problem: Trainable | EntryPoint,
        config: Config,
        spec: TrialCreate,
        *,
        program: Program | None = None,
        watched: bool = False,
        show_progress_bar: bool = True,
    ) -> TrialRecord:
        """Create a trial; it runs while its events are read, or in a thread of its own if it is not `watched`.

        Raises:
            OneDeviceOnly: it asks for several devices.
            StateInvalid: it starts from a trial of another architecture.
            CheckpointNotFound, HyperparametersNotFound: it starts from what was not kept.
        """
        del program, show_progress_bar  # nothing is uploaded
        from torch.utils import _pytree as pytree

        from nestor.entry_points import EntryPoint
        from nestor_engine import start_from

        assert not isinstance(problem, EntryPoint)  # `ships` is False
        self.study(study_id)
        if spec.devices_per_trial > 1:
            raise OneDeviceOnly
        bilevel = problem.bilevel()
        warm_start = spec.warm_start
        if warm_start is not None:
            warm_start, reached = self._trial(warm_start.trial).reached(warm_start)
            bilevel = start_from(bilevel, reached)
        device = next(leaf.device for leaf in pytree.tree_leaves(bilevel.params))
        # Nothing crosses a wire, so this id stands for the problem itself.
        here = uuid4()
        named = isinstance(spec.problem, EntryPointProblem)
        what = spec.problem if named else ProgramProblem(program=here, dataset=here)
        spec = spec.model_copy(update={"problem": what, "warm_start": warm_start})
        with self._lock:
            record = TrialRecord(
                id=uuid4(),
                study_id=study_id,
                number=len(self.trials(study_id)),
                state=State.queued,
                desired=Desired.run,
                allowed_actions=lifecycle.allowed_actions(State.queued, Desired.run),
                spec=spec,
                priority=spec.priority,
                step=0,
                n_steps=config.n_steps,
                value=None,
                best_value=None,
                best_step=None,
                attempt=0,
                restarts=0,
                preemptions=0,
                error=None,
                user_attrs=spec.user_attrs,
                worker=None,
                seq=0,
                created_at=datetime.now(UTC),
                started_at=None,
                finished_at=None,
            )
            trial = self._trials[record.id] = LocalTrial(
                record, bilevel.to(device), problem.data.to(device), config, device=device.type
            )
        if not watched:
            trial.start()
        return trial.record

    def trials(self, study_id: UUID) -> list[TrialRecord]:
        """In order of their numbers."""
        return [trial.record for trial in list(self._trials.values()) if trial.record.study_id == study_id]

    def trial(self, trial_id: UUID) -> TrialRecord:
        """A trial as of now.

        Raises:
            TrialNotFound: this process has no such trial.
        """
        return self._trial(trial_id).record

    def request(self, trial_id: UUID, action: Action) -> TrialRecord:
        """Ask for an action; asking twice has one effect.

        Raises:
            IllegalTransition: the trial's state does not allow it.
        """
        return self._trial(trial_id).request(action)

    def extend(self, trial_id: UUID, steps: int) -> TrialRecord:
        """Have a complete or paused trial take more steps.

        Raises:
            IllegalTransition: it is neither complete nor paused.
            TooManySteps: the sum is more than a trial can count.
        """
        return self._trial(trial_id).extend(build(TrialExtend, {"steps": steps}).steps)

    def prioritize(self, trial_id: UUID, priority: int) -> TrialRecord:
        """Record a priority; it has no effect, because no trial waits for another in this process."""
        return self._trial(trial_id).prioritize(build(TrialPriority, {"priority": priority}).priority)

    def attempts(self, trial_id: UUID) -> list[Attempt]:
        """In order of their numbers."""
        return list(self._trial(trial_id).attempts)

    def events(self, trial_id: UUID, after: int = 0) -> Iterator[Event]:
        """The events behind number `after`. Unless a thread runs the trial, reading them takes its steps."""
        return self._trial(trial_id).events(after)

    def steps(self, trial_id: UUID, after: int = 0) -> list[Step]:
        """The recorded steps whose number is above `after`."""
        return self._trial(trial_id).steps[after:]  # step n is at n - 1

    def hyperparameters(self, trial_id: UUID) -> Hyperparameters:
        """What is tuned, and the steps that have a snapshot."""
        return self._trial(trial_id).hyperparameters()

    def snapshot(self, trial_id: UUID, step: int | None = None) -> bytes:
        """All hyperparameters at `step`, by default the newest snapshot, as safetensors.

        Raises:
            HyperparametersNotFound: there is no snapshot of that step.
        """
        return self._trial(trial_id).snapshot(step)

    def checkpoint(self, trial_id: UUID) -> bytes:
        """The state after the last step, as safetensors.

        Raises:
            CheckpointNotFound: no step was taken yet.
        """
        return self._trial(trial_id).checkpoint()

    def detach(self, trial: TrialRecord) -> str:
        """Pause a trial whose watcher leaves, unless a thread runs it; what became of it, as a sentence."""
        left = self._trial(trial.id)
        handle = f"study.trials[{trial.number}]"
        if left.in_background and not left.record.state.finished:
            return (
                f"Trial {trial.number} continues in the background. "
                f"Watch it: {handle}.stream(); stop it: {handle}.stop()."
            )
        at = left.record
        if not at.state.finished:
            at = left.request("cancel" if at.desired is Desired.cancel else "pause")
        if at.state.finished:
            return f"Trial {trial.number} is {at.state.value}; {handle} has what it recorded."
        return (
            f"Trial {trial.number} is paused at step {at.step} of {at.n_steps}. Its records are kept. "
            f"Resume it: {handle}.resume(); stop it: {handle}.stop()."
        )

    def cause(self, trial_id: UUID) -> BaseException | None:
        """The exception that failed the trial."""
        return self._trial(trial_id).cause

    def _trial(self, trial_id: UUID) -> LocalTrial:
        trial = self._trials.get(trial_id)
        if trial is None:
            raise TrialNotFound(trial=str(trial_id))
        return trial

    def shut_down(self) -> None:
        """Threads must not compute while the interpreter takes torch down; each stops after its present step."""
        for trial in self._trials.values():
            if trial.in_background:
                if "stop" in trial.record.allowed_actions:
                    trial.request("stop")
                trial.join()


here = Local()
atexit.register(here.shut_down)
