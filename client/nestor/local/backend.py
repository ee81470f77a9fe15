"""The backend without a server: studies that live in this process, and end with it."""

from __future__ import annotations

import atexit
import threading
from collections import Counter
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Never
from uuid import UUID, uuid4

from nestor import lifecycle
from nestor.callbacks import states_of
from nestor.errors import (
    LocalNotPicklable,
    OneDeviceOnly,
    StudyExists,
    StudyNameTaken,
    StudyNotFound,
    TrialNotFound,
    TrialNumberNotFound,
)
from nestor.local.trial_runner import LocalTrial
from nestor.ranking import Ranking
from nestor.results.trainings import confirmations, retrainings
from nestor.schemas import (
    DEFAULT_POINTS,
    Action,
    Attempt,
    Confirm,
    Confirmation,
    Desired,
    EntryPointProblem,
    EntryValues,
    Event,
    Form,
    Hyperparameters,
    HyperparameterSummary,
    Order,
    ProgramProblem,
    Retrain,
    State,
    Step,
    StudyCreate,
    StudyPatch,
    TopEntries,
    TrialCreate,
    TrialExtend,
    TrialPatch,
    TrialPriority,
    TrialSpec,
    TruthReport,
    WhichStep,
    build,
)
from nestor.schemas import Study as StudyRecord
from nestor.schemas import Trial as TrialRecord

if TYPE_CHECKING:
    from nestor.entry_points import EntryPoint
    from nestor.options import Config
    from nestor_engine import Bilevel, Data
    from nestor_engine.problem.entry_points import Trainable
    from nestor_engine.program.export import Program

BEST = ("best_value", "best_trial", "best_trial_id")  # what a study shows of its best trial


class Local:
    """Studies and trials by id, in memory. The methods are those of `nestor.backend.Backend`."""

    ships = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._training = threading.Lock()
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
            RankingDiffers: there is one that ranks its trials in another way.
        """
        with self._lock:
            there = self._named(new.name)
            if there is None:
                there = _new_study(new)
                self._studies[there.id] = there
            elif not new.load_if_exists:
                raise StudyExists(name=new.name)
            else:
                Ranking.of(there).expect_same(new.name, new.metric, new.direction)
        return self.study(there.id)

    def find_study(self, name: str) -> StudyRecord:
        """The study of that name.

        Raises:
            StudyNotFound: this process has no such study.
        """
        found = self._named(name)
        return self.study(name if found is None else found.id)

    def _named(self, name: str) -> StudyRecord | None:
        return next((study for study in list(self._studies.values()) if study.name == name), None)

    def study(self, study_id: UUID | str) -> StudyRecord:
        """A study, with its trials counted and its best value as of now.

        Raises:
            StudyNotFound: this process has no such study.
        """
        found = self._studies.get(study_id) if isinstance(study_id, UUID) else None
        if found is None:
            raise StudyNotFound(study=str(study_id))
        trials = self.trials(found.id)
        best = Ranking.of(found).best_trial(trials)
        counts = Counter(trial.state.value for trial in trials)
        shown = (None, None, None) if best is None else (best.best_value, best.number, best.id)
        best_of = dict(zip(BEST, shown, strict=True))
        return found.model_copy(update={"trial_counts": dict(counts), **best_of})

    def studies(self) -> Iterator[StudyRecord]:
        """Newest first."""
        return (self.study(study_id) for study_id in reversed(list(self._studies)))

    def change_study(self, study_id: UUID, patch: StudyPatch) -> StudyRecord:
        """Change attributes, each key by itself, tags, note and the ranking.

        Raises:
            StudyNotFound: this process has no such study.
            RankingDiffers: the study has trials, whose best weights were kept by its metric and direction.
            LossMaximized: it would rank by the highest loss.
        """
        with self._lock:
            before = self.study(study_id)
            ranking = Ranking.of(before).changed(patch, study=before.name, has_trials=bool(before.trial_counts))
            changed = {**patch.apply(before.user_attrs, before.tags, before.note), "updated_at": datetime.now(UTC)}
            changed |= {"metric": ranking.metric, "direction": ranking.direction}
            self._studies[study_id] = before.model_copy(update=changed)
        return self.study(study_id)

    def delete_study(self, study_id: UUID) -> None:
        """Delete a study and its trials; running ones are canceled first.

        Raises:
            StudyNotFound: this process has no such study.
        """
        with self._lock:  # nobody adds a trial meanwhile
            for trial in self.trials(self.study(study_id).id):
                if not trial.state.finished:
                    self.request(trial.id, "cancel")
                self._trials.pop(trial.id).artifacts.forget()
            del self._studies[study_id]

    def copy_study(self, study_id: UUID, new_name: str) -> StudyRecord:
        """Copy a study, and its finished trials with all that they recorded.

        Raises:
            StudyNotFound: this process has no such study.
            StudyNameTaken: it has another study of that name.
        """
        with self._lock:  # nobody deletes the study or takes the name meanwhile
            source = self.study(study_id)
            copied = {name: getattr(source, name) for name in ("metric", "direction", "user_attrs", "tags", "note")}
            made = _new_study(build(StudyCreate, {"name": new_name, **copied}))
            if self._named(made.name) is not None:
                raise StudyNameTaken(name=made.name)
            finished = [trial for trial in self.trials(study_id) if trial.state.finished]
            ids = {trial.id: uuid4() for trial in finished}
            copies: dict[UUID, LocalTrial] = {}
            for number, record in enumerate(finished):
                spec, start = record.spec, record.spec.warm_start
                if start is not None and start.trial in ids:  # confirmations start from a trial of their study
                    spec = spec.model_copy(update={"warm_start": start.model_copy(update={"trial": ids[start.trial]})})
                changes = {"id": ids[record.id], "study_id": made.id, "number": number, "spec": spec}
                copies[ids[record.id]] = self._trial(record.id).copy(**changes)
            self._trials |= copies  # at once, and only if all could be made
            self._studies[made.id] = made
        return self.study(made.id)

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
        from nestor.entry_points import EntryPoint

        assert not isinstance(problem, EntryPoint)  # `ships` is False
        if spec.devices_per_trial > 1:
            raise OneDeviceOnly
        # Nothing crosses a wire, so this id stands for the problem itself.
        here = uuid4()
        named = isinstance(spec.problem, EntryPointProblem)
        what = spec.problem if named else ProgramProblem(program=here, dataset=here)
        fields: dict[str, Any] = {name: getattr(spec, name) for name in TrialSpec.model_fields}
        submitted = TrialSpec.model_construct(None, **fields | {"problem": what})
        trial = self._create(study_id, problem.bilevel(), problem.data, config, submitted, note=spec.note)
        if not watched:
            trial.start()
        return trial.record

    def _create(
        self, study_id: UUID, bilevel: Bilevel, data: Data, config: Config, spec: TrialSpec, *, note: str = ""
    ) -> LocalTrial:
        """A queued trial of a problem at its first initialization."""
        from torch.utils import _pytree as pytree

        device = next(leaf.device for leaf in pytree.tree_leaves(bilevel.params))
        start, starts_from, now = None, None, datetime.now(UTC)
        if spec.warm_start is not None:
            starts_from = spec.warm_start.trial
            warm_start, start = self._trial(spec.warm_start.trial).artifacts.reached(spec.warm_start)
            spec = spec.model_copy(update={"warm_start": warm_start})
        with self._lock:  # the number and the ranking stay as they are
            study = self.study(study_id)
            record = TrialRecord(
                id=uuid4(),
                study_id=study_id,
                number=len(self.trials(study_id)),
                state=State.queued,
                desired=Desired.run,
                allowed_actions=lifecycle.allowed_actions(State.queued, Desired.run),
                spec=spec,
                tunes=spec.response.tunes,
                starts_from=starts_from,
                priority=spec.priority,
                step=0,
                n_steps=config.n_steps,
                value=None,
                best_value=None,
                best_step=None,
                attempt=0,
                restarts=0,
                preemptions=0,
                seconds=0.0,
                error=None,
                user_attrs=spec.user_attrs,
                tags=spec.tags,
                note=note,
                worker=None,
                seq=0,
                created_at=now,
                started_at=None,
                finished_at=None,
                last_activity_at=now,
            )
            trial = self._trials[record.id] = LocalTrial(
                record,
                bilevel.to(device),
                data.to(device),
                config,
                start=start,
                device=device.type,
                ranking=Ranking.of(study),
            )
        return trial

    def confirm(self, trial_id: UUID, asked: Confirm, *, watched: bool = False) -> Confirmation:
        """Create the missing trainings under a trial's best hyperparameters.

        They run while their events are read. Unless they are `watched`, each that waits runs in a thread of its own.

        Raises:
            NotFinished, NothingTuned, NothingToConfirm: as `confirmations.missing_runs`.
        """
        trial = self._trial(trial_id)
        record = trial.record
        with self._training:  # two calls at the same time create each training once
            for run in confirmations.missing_runs(record, asked, self._confirming(record)):
                options, spec = confirmations.options(record, run), confirmations.specification(record, run)
                self._train(trial, options, spec)
        if not watched:
            self._start(self._confirming(record))
        return self.confirmation(trial_id)

    def confirmation(self, trial_id: UUID) -> Confirmation:
        """A trial's numbers at its best step, beside those of its trainings."""
        record = self.trial(trial_id)
        runs = self._with_last(self._confirming(record))
        return confirmations.confirmation(record, self._step(trial_id, record.best_step), runs)

    def truth(self, trial_id: UUID, asked: Retrain, *, watched: bool = False) -> TruthReport:
        """Create the missing trainings under changes of a trial's best hyperparameters.

        They run as those of `confirm` do.

        Raises:
            NotFinished, NothingTuned, NothingToConfirm: as `retrainings.missing_runs`.
        """
        trial = self._trial(trial_id)
        record = trial.record
        with self._training:
            for nudge in retrainings.missing_runs(record, asked, self._retraining(record, asked.size)):
                options, spec = retrainings.options(record, nudge), retrainings.specification(record, nudge)
                self._train(trial, options, spec)
        if not watched:
            self._start(self._retraining(record, asked.size))
        return self.truth_report(trial_id, asked.size)

    def truth_report(self, trial_id: UUID, size: float) -> TruthReport:
        """What a trial's hypergradient predicts, beside what its trainings under changes of this size have found."""
        record = self.trial(trial_id)
        return retrainings.report(record, size, self._with_last(self._retraining(record, size)))

    def _train(self, trial: LocalTrial, options: dict[str, Any], spec: TrialSpec) -> None:
        config = trial.config.model_copy(update=options)
        self._create(trial.record.study_id, trial.bilevel, trial.data, config, spec)

    def _start(self, runs: list[TrialRecord]) -> None:
        for run in runs:
            self._trial(run.id).start_if_waiting()

    def _confirming(self, record: TrialRecord) -> list[TrialRecord]:
        return [run for run in self.trials(record.study_id) if confirmations.is_run_of(run, record)]

    def _retraining(self, record: TrialRecord, size: float) -> list[TrialRecord]:
        return [run for run in self.trials(record.study_id) if retrainings.is_run_of(run, record, size)]

    def _with_last(self, runs: list[TrialRecord]) -> list[tuple[TrialRecord, Step | None]]:
        """Trials with their last steps."""
        return [(run, self._step(run.id, run.step)) for run in runs]

    def _step(self, trial_id: UUID, number: int | None) -> Step | None:
        steps = self._trial(trial_id).steps
        return steps[number - 1] if number else None

    def trials(self, study_id: UUID, states: Collection[State] | None = None) -> list[TrialRecord]:
        """In order of their numbers; with `states`, those that are in one of them."""
        chosen = states_of("Local.trials", states)
        records = [trial.record for trial in list(self._trials.values())]
        wanted = State if chosen is None else chosen
        return [record for record in records if record.study_id == study_id and record.state in wanted]

    def find_trial(self, study_id: UUID, number: int) -> TrialRecord:
        """The trial of that number.

        Raises:
            TrialNumberNotFound: the study has no trial of that number; the message says which it has.
        """
        records = self.trials(study_id)
        for record in records:
            if record.number == number:
                return record
        name, numbers = self.study(study_id).name, lifecycle.numbers_up_to(len(records))
        raise TrialNumberNotFound(trial=f"{name}/{number}", numbers=numbers)

    def trial(self, trial_id: UUID) -> TrialRecord:
        """A trial as of now.

        Raises:
            TrialNotFound: this process has no such trial.
        """
        return self._trial(trial_id).record

    def change_trial(self, trial_id: UUID, patch: TrialPatch) -> TrialRecord:
        """Change attributes, each key by itself, tags and note."""
        return self._trial(trial_id).change(patch)

    def request(self, trial_id: UUID, action: Action, after_step: int | None = None) -> TrialRecord:
        """Ask for an action; asking twice has one effect. A trial of this process is never ahead of its callbacks.

        Raises:
            IllegalTransition: the trial's state does not allow it.
        """
        return self._trial(trial_id).request(action, after_step)

    def extend(self, trial_id: UUID, steps: int) -> TrialRecord:
        """Have a complete, pruned or paused trial take more steps.

        Raises:
            IllegalTransition: it is neither complete nor pruned nor paused.
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
        return self._trial(trial_id).artifacts.hyperparameters()

    def hyperparameter_summary(
        self, trial_id: UUID, name: str, *, max_points: int = DEFAULT_POINTS
    ) -> HyperparameterSummary:
        """The course of one hyperparameter, as needed for a plot.

        Args:
            max_points: of each 100,000 steps, at most so many are returned.

        Raises:
            HyperparameterUnknown: the trial has no hyperparameter of that name.
        """
        return self._trial(trial_id).artifacts.summary(name, max_points)

    def snapshot(self, trial_id: UUID, step: int | None = None) -> bytes:
        """All hyperparameters at `step`, by default the newest snapshot, as safetensors.

        Raises:
            HyperparametersNotFound: there is no snapshot of that step.
        """
        return self._trial(trial_id).artifacts.snapshot(step)

    def top(self, trial_id: UUID, name: str, by: Order, k: int = 20, step: int | None = None) -> TopEntries:
        """The `k` entries of a hyperparameter that come first by an order at `step`, by default the newest snapshot.

        Raises:
            HyperparameterUnknown: the trial has no hyperparameter of that name.
            HyperparametersNotFound: there is no snapshot of that step.
            EntriesNotRecorded: hypergradients are kept of the last step alone.
        """
        return self._trial(trial_id).artifacts.top(name, by, k, step)

    def entry_values(self, trial_id: UUID, name: str, index: str, form: Form = Form.optimized) -> EntryValues:
        """Some entries of a hyperparameter, such as "0,17,3.5", at the steps that have a snapshot.

        Raises:
            HyperparameterUnknown: the trial has no hyperparameter of that name.
            EntryUnknown, TooManyEntries: the hyperparameter has no such entries, or there are too many.
        """
        return self._trial(trial_id).artifacts.entry_values(name, index, form)

    def checkpoint(self, trial_id: UUID, step: WhichStep = "latest") -> bytes:
        """The state after the last step, or the weights of the best step, as safetensors.

        Raises:
            CheckpointNotFound: nothing is kept of that step.
        """
        return self._trial(trial_id).artifacts.checkpoint(step)

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
        for trial in list(self._trials.values()):  # another thread may still create one
            if trial.in_background:
                if "stop" in trial.record.allowed_actions:
                    trial.request("stop")
                trial.join()


def _new_study(new: StudyCreate) -> StudyRecord:
    now, fields = datetime.now(UTC), new.model_dump(exclude={"load_if_exists"})
    fields["direction"] = new.direction or "minimize"
    return StudyRecord(id=uuid4(), created_at=now, updated_at=now, trial_counts={}, **dict.fromkeys(BEST), **fields)


here = Local()
atexit.register(here.shut_down)
