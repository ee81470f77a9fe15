"""What `Study` and `Trial` ask of the place where they live: a server (`Client`) or this process (`Local`).

Both answer with the wire's schemas, fail with the wire's errors, follow `nestor.lifecycle` and record the same events.
One test suite holds for both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from nestor.schemas import Action, Attempt, Event, Hyperparameters, Step, StudyCreate, TrialCreate
from nestor.schemas import Study as StudyRecord
from nestor.schemas import Trial as TrialRecord

if TYPE_CHECKING:
    from nestor.options import Config
    from nestor_engine import Problem
    from nestor_engine.program.export import Program


class Backend(Protocol):
    """A place where studies and their trials live."""

    @property
    def ships(self) -> bool:
        """Whether problems leave this process, and so must be exportable."""
        ...

    def create_study(self, new: StudyCreate) -> StudyRecord:
        """Raises StudyExists, unless `new.load_if_exists`."""
        ...

    def find_study(self, name: str) -> StudyRecord:
        """Raises StudyNotFound."""
        ...

    def study(self, study_id: UUID) -> StudyRecord:
        """Raises StudyNotFound."""
        ...

    def studies(self) -> Iterator[StudyRecord]:
        """Newest first."""
        ...

    def set_user_attrs(self, study_id: UUID, changes: dict[str, Any]) -> StudyRecord:
        """Set some user attributes and leave the others."""
        ...

    def delete_study(self, study_id: UUID) -> None:
        """Delete a study, and cancel what still runs in it. Raises StudyNotFound."""
        ...

    def submit(
        self,
        study_id: UUID,
        problem: Problem,
        config: Config,
        spec: TrialCreate,
        *,
        program: Program | None,
        watched: bool,
        show_progress_bar: bool,
    ) -> TrialRecord:
        """Begin a trial of a problem that was checked, with `spec`, whose problem the backend fills in.

        `program`: the problem's export, if the check made one.
        `watched`: the caller goes on to read its events, to the end.
        """
        ...

    def trials(self, study_id: UUID) -> list[TrialRecord]:
        """In order of their numbers."""
        ...

    def trial(self, trial_id: UUID) -> TrialRecord:
        """Raises TrialNotFound."""
        ...

    def request(self, trial_id: UUID, action: Action) -> TrialRecord:
        """Idempotent. Raises IllegalTransition."""
        ...

    def extend(self, trial_id: UUID, steps: int) -> TrialRecord:
        """Have a complete or paused trial take more steps. Raises IllegalTransition."""
        ...

    def prioritize(self, trial_id: UUID, priority: int) -> TrialRecord:
        """Let a trial go before those of lower priority. Raises Forbidden."""
        ...

    def attempts(self, trial_id: UUID) -> list[Attempt]:
        """In order of their numbers."""
        ...

    def events(self, trial_id: UUID, after: int = 0) -> Iterator[Event]:
        """The events behind number `after`, each once and in order, as they come; `end` is the last."""
        ...

    def steps(self, trial_id: UUID, after: int = 0) -> list[Step]:
        """The recorded steps whose number is above `after`."""
        ...

    def hyperparameters(self, trial_id: UUID) -> Hyperparameters:
        """What is tuned, and the steps that have a snapshot."""
        ...

    def snapshot(self, trial_id: UUID, step: int | None = None) -> bytes:
        """All hyperparameters at `step`, by default the latest that was kept, as safetensors.

        Raises:
            HyperparametersNotFound: nothing was kept of that step.
        """
        ...

    def checkpoint(self, trial_id: UUID) -> bytes:
        """All of the trial's state as it was kept last, as safetensors.

        Raises:
            CheckpointNotFound: nothing was kept yet.
        """
        ...

    def detach(self, trial: TrialRecord) -> str:
        """The watcher of an unfinished trial leaves; what becomes of the trial, as a sentence for the user."""
        ...

    def cause(self, trial_id: UUID) -> BaseException | None:
        """The exception that failed the trial, where it is at hand."""
        ...
