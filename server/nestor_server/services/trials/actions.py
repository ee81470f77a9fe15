"""Trials: submitted, and asked to stop, pause or go on."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import update
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.errors import Forbidden, StudyNotFound, ValidationFailed
from nestor.schemas import Action, ProgramProblem, Scope, State
from nestor_server.models import Study, Trial
from nestor_server.scheduling import leases, state_machine, task_queue
from nestor_server.services.problems import datasets, programs
from nestor_server.services.tokens import Caller
from nestor_server.services.trials import warm_starts
from nestor_server.services.trials.queries import describe, find


def create(session: Session, me: Caller, study_id: UUID, new: schemas.TrialCreate) -> schemas.Trial:
    """Submit a tuning job: it is queued, and a worker is called once this is committed.

    Raises:
        StudyNotFound, ProgramNotFound, DatasetNotFound, TrialNotFound, CheckpointNotFound, HyperparametersNotFound
        ValidationFailed: nothing says how many outer steps to take.
        InvalidInput: the warm start is of another architecture.
        Forbidden: a priority that only an admin may give.
    """
    owner_id, n_steps = me.user_id, new.outer.steps
    if n_steps is None:
        remedy = "Add the number of outer steps, such as 300."
        error = {"field": "outer.steps", "message": "This field is missing", "remedy": remedy}
        raise ValidationFailed(summary=f"outer.steps: This field is missing. {remedy}", errors=[error])
    _may_give(me, new.priority)
    program_id = dataset_id = None
    if isinstance(new.problem, ProgramProblem):
        program_id = programs.get(session, owner_id, new.problem.program).id
        dataset_id = datasets.get(session, owner_id, new.problem.dataset).id
    start_blob_id = None
    if new.warm_start is not None:
        start, start_blob_id = warm_starts.find(session, owner_id, new.warm_start)
        warm_starts.expect(session, owner_id, start, start_blob_id, new.problem)
        new = new.model_copy(update={"warm_start": start})
    number = session.scalars(
        update(Study)
        .where(Study.id == study_id, Study.owner_id == owner_id, Study.deleted_at.is_(None))
        .values(next_number=Study.next_number + 1)
        .returning(Study.next_number - 1)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if number is None:
        raise StudyNotFound(study=str(study_id))
    trial = Trial(
        study_id=study_id,
        number=number,
        spec=new.model_dump(mode="json", exclude={"user_attrs"}),
        user_attrs=new.user_attrs,
        program_id=program_id,
        dataset_id=dataset_id,
        start_blob_id=start_blob_id,
        n_steps=n_steps,
        priority=new.priority,
        devices=new.devices_per_trial,
    )
    session.add(trial)
    session.flush()
    state_machine.tell(session, trial.id, State.queued, by=f"user {me.user}", why="submitted")
    task_queue.send_on_commit(session, trial.id)
    session.refresh(trial)
    return describe(trial)


def request(session: Session, me: Caller, trial_id: UUID, action: Action) -> schemas.Trial:
    """
    Raises:
        IllegalTransition: not from the trial's present state.
    """
    return describe(leases.request(session, find(session, me.user_id, trial_id), action, by=f"user {me.user}"))


def extend(session: Session, me: Caller, trial_id: UUID, steps: int) -> schemas.Trial:
    """
    Raises:
        IllegalTransition: the trial is neither complete nor paused.
    """
    return describe(leases.extend(session, find(session, me.user_id, trial_id), steps, by=f"user {me.user}"))


def prioritise(session: Session, me: Caller, trial_id: UUID, priority: int) -> schemas.Trial:
    """
    Raises:
        Forbidden: only an admin may give that priority.
    """
    trial = find(session, me.user_id, trial_id)
    _may_give(me, priority)
    if trial.priority != priority:
        state_machine.write(session, Trial.id == trial.id, priority=priority)
        state_machine.tell(
            session, trial.id, State(trial.state), by=f"user {me.user}", why=f"its priority is {priority} now"
        )
        session.refresh(trial)
    return describe(trial)


def _may_give(me: Caller, priority: int) -> None:
    """As with `nice`: everybody may step back, and only an admin may step ahead of others."""
    if priority > 0 and not me.may(Scope.admin):
        reason = "give a trial a priority above 0, ahead of other users' trials; one below 0 lets others go first"
        raise Forbidden(reason=reason, scope=Scope.admin.value)
