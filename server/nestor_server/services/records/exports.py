"""Trials and steps for CSV files, read in pieces that are bounded in rows and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import func, null, select
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.results.tables import TrialAndLast
from nestor_server.models import Step, Trial
from nestor_server.services import studies
from nestor_server.services.lists import paging
from nestor_server.services.trials import queries

T = TypeVar("T")
Piece = tuple[Sequence[T], Any]  # entries, and what the next piece comes after; None: these are the last

ROWS = 200  # of a piece
METRICS = ("val_metrics", "metrics", "test_metrics")


def trials(
    session: Session, owner_id: UUID, study_id: UUID, after: int | None, *, metrics: bool
) -> Piece[TrialAndLast]:
    """Trials in order of their numbers, each with the metrics of its last step, if they are wanted.

    Raises:
        StudyNotFound
    """
    studies.find(session, owner_id, study_id)
    where = Trial.study_id == study_id, Trial.number > (-1 if after is None else after)
    rows = select(Trial.number, queries.STORED).where(*where).order_by(Trial.number)
    index = paging.index(session, rows, ROWS)
    # A subquery for each trial, because PostgreSQL may join with all steps of all trials. It asks for the last up to
    # the step, because that order leaves PostgreSQL one index, also on old statistics.
    last = (
        select(func.jsonb_build_object(*(part for name in METRICS for part in (name, Step.data[name]))))
        .where(Step.trial_id == Trial.id, Step.number <= Trial.step)
        .order_by(Step.number.desc())
        .limit(1)
        .scalar_subquery()
    )
    found = session.execute(
        select(Trial, last if metrics else null())
        .where(Trial.study_id == study_id, index.holds(Trial.number))
        .order_by(Trial.number)
    )
    return [(queries.describe(trial), _last(data)) for trial, data in found], index.next_after


def _last(metrics: dict[str, Any] | None) -> tuple[schemas.Step, ...]:
    """A step that has these metrics and nothing else."""
    if metrics is None:
        return ()
    return (schemas.Step.model_construct(None, **{name: values or {} for name, values in metrics.items()}),)


def steps(session: Session, owner_id: UUID, trial_id: UUID, after: int | None) -> Piece[schemas.Step]:
    """Steps in order of their numbers.

    Raises:
        TrialNotFound
    """
    queries.read(session, owner_id, trial_id, Trial.id)
    where = Step.trial_id == trial_id, Step.number > (after or 0)
    rows = select(Step.number, paging.stored_bytes(Step.data)).where(*where).order_by(Step.number)
    index = paging.index(session, rows, ROWS)
    # By their order: with many single numbers PostgreSQL may read all steps of the trial.
    found = session.scalars(select(Step.data).where(*where).order_by(Step.number).limit(len(index.keys)))
    known = ({name: data[name] for name in schemas.Step.model_fields if name in data} for data in found)
    return [schemas.Step.model_validate(data) for data in known], index.next_after
