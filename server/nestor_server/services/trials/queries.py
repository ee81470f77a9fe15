"""Finds, lists and describes trials."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from nestor import lifecycle, schemas
from nestor.errors import TrialNotFound
from nestor.schemas import Desired, State
from nestor_server.models import Study, Trial
from nestor_server.scheduling import leases, rankings
from nestor_server.services import paging, studies, versions


def page(
    session: Session,
    owner_id: UUID,
    study_id: UUID,
    *,
    states: Sequence[State] = (),
    number: int | None = None,
    cursor: str | None = None,
    limit: int = paging.DEFAULT_LIMIT,
) -> schemas.TrialPage:
    """One page of the trials of a study, by number: all, those in one of `states`, or the one of a number.

    Raises:
        StudyNotFound
        InvalidInput: the cursor belongs to another list.
    """
    studies.find(session, owner_id, study_id)
    query = select(Trial).where(Trial.study_id == study_id)
    if states:
        query = query.where(Trial.state.in_([state.value for state in states]))
    if number is not None:
        query = query.where(Trial.number == number)
    if cursor is not None:
        query = query.where(Trial.number > paging.decode(cursor, int))
    found = session.scalars(query.order_by(Trial.number).limit(limit + 1)).all()
    more = paging.encode(found[limit - 1].number) if len(found) > limit else None
    return schemas.TrialPage(items=tuple(describe(trial) for trial in found[:limit]), next_cursor=more)


def find(session: Session, owner_id: UUID, trial_id: UUID) -> Trial:
    """The table row of a trial.

    Raises:
        TrialNotFound: the user has no such trial, or its study was deleted.
    """
    trial = session.scalars(
        select(Trial)
        .join(Study, Study.id == Trial.study_id)
        .where(Trial.id == trial_id, Study.owner_id == owner_id, Study.deleted_at.is_(None))
    ).one_or_none()
    if trial is None:
        raise TrialNotFound(trial=str(trial_id))
    return trial


def find_version(session: Session, owner_id: UUID, trial_id: UUID, if_match: str | None) -> Trial:
    """The table row of a trial that is to be changed, locked so that it stays at this version.

    Raises:
        TrialNotFound
        VersionMismatch: `if_match` names another version.
    """
    trial = find(session, owner_id, trial_id)
    leases.lock(session, trial)
    versions.expect(if_match, "trial", versions.of_trial(trial))
    return trial


def get(session: Session, owner_id: UUID, trial_id: UUID) -> tuple[schemas.Trial, str]:
    """One trial, as the REST interface shows it, and its version.

    Raises:
        TrialNotFound
    """
    return describe_version(find(session, owner_id, trial_id))


def describe_version(trial: Trial) -> tuple[schemas.Trial, str]:
    """The trial as the REST interface shows it, and its version."""
    return describe(trial), versions.of_trial(trial)


def describe(trial: Trial) -> schemas.Trial:
    """The trial as the REST interface shows it, with the actions that its state allows."""
    state, desired = State(trial.state), Desired(trial.desired)
    return schemas.Trial(
        id=trial.id,
        study_id=trial.study_id,
        number=trial.number,
        state=state,
        desired=desired,
        allowed_actions=lifecycle.allowed_actions(state, desired),
        spec=schemas.TrialSpec.model_validate({"user_attrs": trial.user_attrs, **trial.spec}),
        priority=trial.priority,
        step=trial.step,
        n_steps=trial.n_steps,
        value=trial.value,
        best_value=trial.best_value,
        best_step=trial.best_step,
        verdict=rankings.verdict(trial.evidence, trial.hyperparameters, trial.spec, trial.error),
        attempt=trial.attempt,
        restarts=trial.restarts,
        preemptions=trial.preemptions,
        seconds=trial.seconds,
        error=trial.error,
        user_attrs=trial.user_attrs,
        tags=tuple(trial.tags),
        worker=trial.lease_owner,
        seq=trial.seq,
        created_at=trial.created_at,
        started_at=trial.started_at,
        finished_at=trial.finished_at,
    )
