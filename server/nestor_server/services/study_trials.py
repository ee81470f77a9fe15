"""What the trials of studies come to, read from indexes: rows are read of those that run, and of the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import ColumnElement, and_, case, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from nestor_server.models import Study, Trial
from nestor_server.services.versions import OF_TRIAL


def _of_trials(
    function: Any, column: InstrumentedAttribute[Any], *where: ColumnElement[bool] | InstrumentedAttribute[bool]
) -> ColumnElement[Any]:
    """An aggregate over the trials of a study that meet the conditions."""
    return select(function(column)).where(Trial.study_id == Study.id, *where).scalar_subquery()


def _best(extreme: Any, outer: Any) -> ColumnElement[Any]:
    ranked = _of_trials(extreme, Trial.ranked_value, Trial.ranked_value.is_not(None))
    return outer(ranked, _of_trials(extreme, Trial.best_value, Trial.is_running, Trial.tunes))


# Indexes have the extremes of trials that do not run. Those that run are few.
BEST_VALUE = case((Study.direction == "minimize", _best(func.min, func.least)), else_=_best(func.max, func.greatest))
LAST_ACTIVITY = func.greatest(
    Study.updated_at,
    _of_trials(func.max, Trial.resting_active_at, Trial.resting_active_at.is_not(None)),
    _of_trials(func.max, Trial.active_at, Trial.is_running),
)


@dataclass(frozen=True)
class Trials:
    """Those of a study.

    Attributes:
        counts: their number by state.
        best_value: of those that can be its best.
        best_number, best, best_version: of the first trial with that value: number, id, and what changes with it.
        running, running_version: the newest of those that run, and what changes with it.
        last_activity_at: of any of them, or of the study itself.
    """

    counts: dict[str, int]
    best_value: float | None
    best_number: int | None
    best: UUID | None
    best_version: str | None
    running: UUID | None
    running_version: str | None
    last_activity_at: datetime


def trials_of(session: Session, study_ids: Sequence[UUID]) -> dict[UUID, Trials]:
    """Those of several studies."""
    counts: dict[UUID, dict[str, int]] = {study_id: {} for study_id in study_ids}
    states = select(Trial.study_id, Trial.state, func.count()).where(Trial.study_id.in_(study_ids))
    for study_id, state, count in session.execute(states.group_by(Trial.study_id, Trial.state)):
        counts[study_id][state] = count
    # Each is computed once, because OFFSET keeps PostgreSQL from merging the statements.
    best, running = aliased(Trial), aliased(Trial)
    extremes = select(
        Study.id,
        BEST_VALUE.label("best_value"),
        _of_trials(func.max, Trial.number, Trial.is_running).label("running"),
        LAST_ACTIVITY.label("last_activity_at"),
    )
    found = extremes.where(Study.id.in_(study_ids)).offset(0).subquery()
    of_study, has_value = Trial.study_id == found.c.id, found.c.best_value
    first = func.least(
        select(func.min(Trial.number)).where(of_study, Trial.ranked_value == has_value).scalar_subquery(),
        select(func.min(Trial.number))
        .where(of_study, Trial.is_running, Trial.tunes, Trial.best_value == has_value)
        .scalar_subquery(),
    )
    numbered = select(found, first.label("best")).offset(0).subquery()
    rows = session.execute(
        select(
            numbered.c.id, numbered.c.best_value, best.number, best.id, _version(best), running.id, _version(running),
            numbered.c.last_activity_at,
        )
        .select_from(numbered)
        .outerjoin(best, and_(best.study_id == numbered.c.id, best.number == numbered.c.best))
        .outerjoin(running, and_(running.study_id == numbered.c.id, running.number == numbered.c.running))
    )  # fmt: skip
    return {row[0]: Trials(counts[row[0]], *cast("tuple[Any, ...]", row)[1:]) for row in rows}


def _version(trial: type[Trial]) -> ColumnElement[str]:
    return func.concat_ws("-", *(getattr(trial, column.key) for column in OF_TRIAL))
