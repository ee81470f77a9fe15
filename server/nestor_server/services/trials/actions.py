"""Submits trials, and requests actions such as pause or extend."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.orm import Session

from nestor import lifecycle, schemas
from nestor.errors import Forbidden, StudyNotFound
from nestor.ranking import Ranking
from nestor.schemas import Action, EndingAction, EntryPointProblem, PresetProblem, ProgramProblem, Scope, State
from nestor_server.limits import quotas
from nestor_server.limits.quotas import Amounts
from nestor_server.models import Study, Trial
from nestor_server.observability import logs, traces
from nestor_server.scheduling import leases, state_machine, task_queue
from nestor_server.services.access.tokens import Caller
from nestor_server.services.problems import datasets, presets, programs
from nestor_server.services.trials import warm_starts
from nestor_server.services.trials.queries import describe, describe_version, find_version

Versioned = tuple[schemas.Trial, str]  # a trial and its version


def create(session: Session, me: Caller, study_id: UUID, new: schemas.TrialSpec, *, note: str = "") -> schemas.Trial:
    """Submit a trial. It is queued, and workers get a message after the commit.

    Raises:
        StudyNotFound, ProgramNotFound, DatasetNotFound, TrialNotFound, CheckpointNotFound, HyperparametersNotFound
        InvalidInput: the warm start has another architecture, running workers cannot build the problem, or it lacks the
            metric by which the study ranks.
        Forbidden: the priority requires an admin token.
        QuotaExceeded
    """
    owner_id = me.user_id
    _check_priority(me, new.priority)
    # A trial will store something; how much, only its worker will know.
    quotas.take(session, owner_id, Amounts(trials=1, unfinished_trials=1, bytes=1))
    program_id = dataset_id = None
    metrics: Sequence[str] | None = None  # unknown: the worker looks at them
    if isinstance(new.problem, PresetProblem):
        metrics = presets.METRICS
    if isinstance(new.problem, ProgramProblem):
        program = programs.get(session, owner_id, new.problem.program)
        program_id, metrics = program.id, program.metrics
        dataset_id = datasets.get(session, owner_id, new.problem.dataset).id
    if isinstance(new.problem, EntryPointProblem):
        presets.validate(session, new.problem)
    start_blob_id = None
    if new.warm_start is not None:
        start, start_blob_id = warm_starts.find(session, owner_id, new.warm_start)
        warm_starts.validate(session, owner_id, start, start_blob_id, new.problem)
        new = new.model_copy(update={"warm_start": start})
    taken = session.execute(
        update(Study)
        .where(Study.id == study_id, Study.owner_id == owner_id, Study.deleted_at.is_(None))
        .values(next_number=Study.next_number + 1)
        .returning(Study.next_number - 1, Study.metric, Study.direction)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if taken is None:
        raise StudyNotFound(study=str(study_id))
    number, metric, direction = taken
    if metrics is not None:
        Ranking(metric, direction).expect(metrics)
    trial = Trial(
        study_id=study_id,
        number=number,
        spec=new.model_dump(mode="json", include={*schemas.TrialSpec.model_fields}),
        user_attrs=new.user_attrs,
        tags=list(new.tags),
        note=note,
        program_id=program_id,
        dataset_id=dataset_id,
        start_blob_id=start_blob_id,
        n_steps=new.n_steps,
        priority=new.priority,
        devices=new.devices_per_trial,
        traceparent=traces.current(),
    )
    session.add(trial)
    session.flush()
    logs.note(trial_id=trial.id)
    state_machine.append_event(session, trial.id, State.queued, by=f"user {me.user}", why=lifecycle.WHY_SUBMITTED)
    task_queue.send_on_commit(session, trial.id)
    session.refresh(trial)
    return describe(trial)


def change(
    session: Session, me: Caller, trial_id: UUID, patch: schemas.TrialPatch, *, if_match: str | None = None
) -> Versioned:
    """Change attributes, tags and note, also of a finished trial. Concurrent changes of different keys are all kept.

    Raises:
        TrialNotFound
        VersionMismatch: `if_match` names another version.
    """
    trial = find_version(session, me.user_id, trial_id, if_match)
    changed = patch.apply(trial.user_attrs, trial.tags, trial.note) | {"revision": Trial.revision + 1}
    state_machine.write(session, Trial.id == trial.id, **changed)
    session.refresh(trial)
    return describe_version(trial)


def request(session: Session, me: Caller, trial_id: UUID, action: Action, *, if_match: str | None = None) -> Versioned:
    """Request an action: done immediately if no worker has the trial, otherwise by its worker.

    Raises:
        TrialNotFound
        IllegalTransition: the action is not allowed in the trial's state.
        VersionMismatch: `if_match` names another version.
        QuotaExceeded
    """
    trial = find_version(session, me.user_id, trial_id, if_match)
    if action == "retry":
        _admit_again(session, me, trial)
    return describe_version(leases.request(session, trial, action, by=f"user {me.user}"))


def end(
    session: Session,
    me: Caller,
    trial_id: UUID,
    action: EndingAction,
    when: schemas.TrialEnd,
    *,
    if_match: str | None = None,
) -> Versioned:
    """Request a stop or a prune: now, or after the step that `when` names, whatever the trial has done since.

    Raises:
        TrialNotFound
        IllegalTransition: the action is not allowed in the trial's state.
        VersionMismatch: `if_match` names another version.
    """
    if when.after_step is None:
        return request(session, me, trial_id, action, if_match=if_match)
    trial = find_version(session, me.user_id, trial_id, if_match)
    return describe_version(leases.request_end(session, trial, action, when.after_step, by=f"user {me.user}"))


def extend(session: Session, me: Caller, trial_id: UUID, steps: int, *, if_match: str | None = None) -> schemas.Trial:
    """Queue a complete, pruned or paused trial again, for `steps` more outer steps.

    Raises:
        TrialNotFound
        IllegalTransition: the trial is neither complete nor pruned nor paused.
        VersionMismatch: `if_match` names another version.
        QuotaExceeded
    """
    trial = find_version(session, me.user_id, trial_id, if_match)
    _admit_again(session, me, trial)
    return describe(leases.extend(session, trial, steps, by=f"user {me.user}"))


def prioritize(
    session: Session, me: Caller, trial_id: UUID, priority: int, *, if_match: str | None = None
) -> Versioned:
    """Change the trial's priority, which orders waiting trials and decides which running ones are preempted.

    Raises:
        TrialNotFound
        Forbidden: the priority requires an admin token.
        VersionMismatch: `if_match` names another version.
    """
    trial = find_version(session, me.user_id, trial_id, if_match)
    _check_priority(me, priority)
    if trial.priority != priority:
        state_machine.write(session, Trial.id == trial.id, priority=priority)
        why = lifecycle.why_prioritized(priority)
        state_machine.append_event(session, trial.id, State(trial.state), by=f"user {me.user}", why=why)
        session.refresh(trial)
    return describe_version(trial)


def _admit_again(session: Session, me: Caller, trial: Trial) -> None:
    if State(trial.state).finished:
        quotas.take(session, me.user_id, Amounts(unfinished_trials=1))


def _check_priority(me: Caller, priority: int) -> None:
    """As with `nice`: every user may lower a priority, and only an admin may raise it above 0."""
    if priority > 0 and not me.may(Scope.admin):
        reason = "give a trial a priority above 0, ahead of other users' trials; one below 0 lets others go first"
        raise Forbidden(reason=reason, scope=Scope.admin.value)
