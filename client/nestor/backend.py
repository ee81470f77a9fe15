"""The interface behind `Study` and `Trial`, implemented by a server's `Client` and by this process's `Local`.

Both return the wire's schemas, raise the same errors, follow `nestor.lifecycle` and record the same events. One test
suite covers both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from nestor.schemas import (
    DEFAULT_POINTS,
    Action,
    Attempt,
    Confirm,
    Confirmation,
    EntryValues,
    Event,
    Form,
    Hyperparameters,
    HyperparameterSummary,
    Order,
    Retrain,
    State,
    Step,
    StudyCreate,
    StudyPatch,
    TopEntries,
    TrialCreate,
    TrialPatch,
    TruthReport,
    WhichStep,
)
from nestor.schemas import Study as StudyRecord
from nestor.schemas import Trial as TrialRecord

if TYPE_CHECKING:
    from nestor.entry_points import EntryPoint
    from nestor.options import Config
    from nestor_engine.problem.entry_points import Trainable
    from nestor_engine.program.export import Program


class Backend(Protocol):
    """Where studies and their trials are stored and run."""

    @property
    def ships(self) -> bool:
        """Whether problems leave this process, and so must be exportable."""
        ...

    def create_study(self, new: StudyCreate) -> StudyRecord:
        """Create a study, or return the one of the same name if `new.load_if_exists`.

        Raises:
            StudyExists: there is one, and `new.load_if_exists` is False.
            RankingDiffers: there is one that ranks its trials in another way.
        """
        ...

    def find_study(self, name: str) -> StudyRecord:
        """The study of that name.

        Raises:
            StudyNotFound: the user has no such study.
        """
        ...

    def study(self, study_id: UUID) -> StudyRecord:
        """A study as of now.

        Raises:
            StudyNotFound: the user has no such study.
        """
        ...

    def studies(self) -> Iterator[StudyRecord]:
        """All studies of the user, newest first."""
        ...

    def change_study(self, study_id: UUID, patch: StudyPatch) -> StudyRecord:
        """Change ranking, attributes, tags and note. What others change meanwhile is kept, unless it has the same key.

        Raises:
            StudyNotFound: the user has no such study.
            RankingDiffers: the study has trials, whose best weights were kept by its metric and direction.
            LossMaximized: it would rank by the highest loss.
        """
        ...

    def delete_study(self, study_id: UUID) -> None:
        """Delete a study with its trials; running ones are canceled first.

        Raises:
            StudyNotFound: the user has no such study.
        """
        ...

    def copy_study(self, study_id: UUID, new_name: str) -> StudyRecord:
        """Copy a study, and its finished trials with all that they recorded.

        Raises:
            StudyNotFound: the user has no such study.
            StudyNameTaken: another study has the name.
        """
        ...

    def submit(
        self,
        study_id: UUID,
        problem: Trainable | EntryPoint,
        config: Config,
        spec: TrialCreate,
        *,
        program: Program | None,
        watched: bool,
        show_progress_bar: bool,
    ) -> TrialRecord:
        """Create a trial of a problem that was checked.

        Args:
            problem: an entry point only if the backend `ships` problems; else what it built.
            config: the configuration in `spec`, as one value.
            spec: the request; the backend fills in its problem, unless it names an entry point.
            program: the problem's export, if the check made one.
            watched: the caller will read the trial's events to the end.
            show_progress_bar: show the progress of uploads.

        Raises:
            StudyNotFound: the user has no such study.
        """
        ...

    def trials(self, study_id: UUID, states: Collection[State] | None = None) -> list[TrialRecord]:
        """The trials of a study, in order of their numbers; with `states`, those that are in one of them."""
        ...

    def find_trial(self, study_id: UUID, number: int) -> TrialRecord:
        """The trial of a study that has this number.

        Raises:
            TrialNotFound: the study has no such trial.
        """
        ...

    def trial(self, trial_id: UUID) -> TrialRecord:
        """A trial as of now.

        Raises:
            TrialNotFound: the user has no such trial.
        """
        ...

    def change_trial(self, trial_id: UUID, patch: TrialPatch) -> TrialRecord:
        """Change attributes, tags and note. What others change at the same time is kept, unless it has the same key.

        Raises:
            TrialNotFound: the user has no such trial.
        """
        ...

    def request(self, trial_id: UUID, action: Action, after_step: int | None = None) -> TrialRecord:
        """Ask for an action. Asking twice has one effect.

        Args:
            after_step: of a stop or a prune, the step after which the trial is to end, whatever it has done since.

        Raises:
            IllegalTransition: the trial's state does not allow it.
        """
        ...

    def extend(self, trial_id: UUID, steps: int) -> TrialRecord:
        """Let a complete, pruned or paused trial take more steps.

        Raises:
            IllegalTransition: it is neither complete nor pruned nor paused.
            TooManySteps: the sum is more than a trial can count.
        """
        ...

    def prioritize(self, trial_id: UUID, priority: int) -> TrialRecord:
        """Let a trial start before waiting trials of lower priority.

        Raises:
            Forbidden: a priority above 0 requires an admin token.
        """
        ...

    def confirm(self, trial_id: UUID, asked: Confirm, *, watched: bool) -> Confirmation:
        """Submit trainings under a trial's best hyperparameters, without those that are there already.

        Args:
            watched: the caller will read the events of each training to the end.

        Raises:
            NotFinished: the trial may find a better step.
            NothingTuned, NothingToConfirm: the trial has no best hyperparameters of its own.
        """
        ...

    def confirmation(self, trial_id: UUID) -> Confirmation:
        """A trial's numbers at its best step, beside those of its trainings.

        Raises:
            NothingToConfirm: no step of the trial was evaluated.
        """
        ...

    def truth(self, trial_id: UUID, asked: Retrain, *, watched: bool) -> TruthReport:
        """Submit trainings under changes of a trial's best hyperparameters, without those that are there already.

        Args:
            watched: the caller will read the events of each training to the end.

        Raises:
            NotFinished: the trial may find a better step.
            NothingTuned, NothingToConfirm: the trial has no best hyperparameters of its own.
        """
        ...

    def truth_report(self, trial_id: UUID, size: float) -> TruthReport:
        """What a trial's hypergradient predicts, beside what its trainings under changes of this size have found.

        Raises:
            NothingToConfirm: no step of the trial was evaluated.
        """
        ...

    def attempts(self, trial_id: UUID) -> list[Attempt]:
        """The attempts of a trial, in order of their numbers."""
        ...

    def events(self, trial_id: UUID, after: int = 0) -> Iterator[Event]:
        """Yield the events behind number `after`, each once and in order, as they occur; `end` is the last."""
        ...

    def steps(self, trial_id: UUID, after: int = 0) -> list[Step]:
        """The recorded steps whose number is above `after`."""
        ...

    def hyperparameters(self, trial_id: UUID) -> Hyperparameters:
        """What is tuned, and the steps that have a snapshot."""
        ...

    def hyperparameter_summary(
        self, trial_id: UUID, name: str, *, max_points: int = DEFAULT_POINTS
    ) -> HyperparameterSummary:
        """The course of one hyperparameter, as needed for a plot.

        Args:
            max_points: of each 100,000 steps, at most so many are returned.

        Raises:
            HyperparameterUnknown: the trial has no hyperparameter of that name.
        """
        ...

    def snapshot(self, trial_id: UUID, step: int | None = None) -> bytes:
        """All hyperparameters at `step`, by default the newest snapshot, as safetensors.

        Raises:
            HyperparametersNotFound: there is no snapshot of that step.
        """
        ...

    def top(self, trial_id: UUID, name: str, by: Order, k: int = 20, step: int | None = None) -> TopEntries:
        """The `k` entries of a hyperparameter that come first by an order at `step`, by default the newest snapshot.

        Raises:
            HyperparameterUnknown: the trial has no hyperparameter of that name.
            HyperparametersNotFound: there is no snapshot of that step.
            EntriesNotRecorded: nothing is known of the entries at that step.
        """
        ...

    def entry_values(self, trial_id: UUID, name: str, index: str, form: Form = Form.optimized) -> EntryValues:
        """Some entries of a hyperparameter, such as "0,17,3.5", at the steps that have a snapshot.

        Raises:
            HyperparameterUnknown: the trial has no hyperparameter of that name.
            EntryUnknown, TooManyEntries: the hyperparameter has no such entries, or there are too many.
        """
        ...

    def checkpoint(self, trial_id: UUID, step: WhichStep = "latest") -> bytes:
        """What is kept of a step, as safetensors: weights, buffers and hyperparameters at least.

        Raises:
            CheckpointNotFound: nothing is kept of that step.
        """
        ...

    def detach(self, trial: TrialRecord) -> str:
        """What becomes of an unfinished trial whose watcher leaves, as a message for the user; may pause the trial."""
        ...

    def cause(self, trial_id: UUID) -> BaseException | None:
        """The exception that failed the trial; None if it did not fail, or failed in another process."""
        ...
