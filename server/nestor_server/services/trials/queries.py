"""Finds, lists and describes trials."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from nestor import lifecycle, schemas
from nestor.errors import TrialNotFound
from nestor.schemas import Desired, State
from nestor_server.models import Study, Trial
from nestor_server.services import paging, studies


def page(
    session: Session,
    owner_id: UUID,
    study_id: UUID,
    *,
    number: int | None = None,
    cursor: str | None = None,
    limit: int = paging.DEFAULT_LIMIT,
) -> schemas.TrialPage:
    """One page of the trials of a study, by number; with `number`, that trial alone.

    Raises:
        StudyNotFound
        InvalidInput: the cursor belongs to another list.
    """
    studies.find(session, owner_id, study_id)
    query = select(Trial).where(Trial.study_id == study_id)
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


def get(session: Session, owner_id: UUID, trial_id: UUID) -> schemas.Trial:
    """One trial, as the REST interface shows it.

    Raises:
        TrialNotFound
    """
    return describe(find(session, owner_id, trial_id))


def version(trial: schemas.Trial) -> str:
    """A string that changes with every visible change of the trial, for ETags."""
    return f"{trial.seq}-{trial.state.value}-{trial.desired.value}"


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
        spec=schemas.TrialSpec.model_validate({**trial.spec, "user_attrs": trial.user_attrs}),
        priority=trial.priority,
        step=trial.step,
        n_steps=trial.n_steps,
        value=trial.value,
        best_value=trial.best_value,
        best_step=trial.best_step,
        attempt=trial.attempt,
        restarts=trial.restarts,
        preemptions=trial.preemptions,
        error=trial.error,
        user_attrs=trial.user_attrs,
        worker=trial.lease_owner,
        seq=trial.seq,
        created_at=trial.created_at,
        started_at=trial.started_at,
        finished_at=trial.finished_at,
    )
