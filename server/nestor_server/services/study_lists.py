"""Lists of studies, each with what is going on in it.

What a page reads of tables follows its number of studies. Their trials are counted from an index, which has one entry
for each. Orders that no index has also read a row, or ends of indexes, of each study of the user.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Row, func, literal_column, select
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.schemas import SortOrder, State, StudySort
from nestor_server.database import settings_of
from nestor_server.models import Study, Trial
from nestor_server.scheduling import rankings
from nestor_server.services import studies, versions
from nestor_server.services.lists import paging, searching, sorting
from nestor_server.services.study_trials import BEST_VALUE, LAST_ACTIVITY, Trials, trials_of
from nestor_server.services.trials import queries
from nestor_server.services.versions import Versioned

STORED = paging.stored_bytes(Study.user_attrs, Study.note)


# All but the first read each study of the user, who has thousands at most, and two of them the ends of indexes of its
# trials. Columns that follow the steps of trials would make the trials of a study wait for each other.
SORTS = {
    StudySort.created_at: sorting.Sort(Study.id, UUID),  # in the order of their creation
    StudySort.last_activity_at: sorting.Sort(LAST_ACTIVITY, datetime, computed=True),
    StudySort.by_name: sorting.Sort(func.lower(Study.name.collate("C")), str, computed=True),  # A to Z in any case
    StudySort.best_value: sorting.Sort(BEST_VALUE, float, nullable=True, computed=True),
    StudySort.trials: sorting.Sort(Study.next_number, int, computed=True),
}


def page(
    session: Session,
    owner_id: UUID,
    *,
    name: str | None = None,
    states: Sequence[State] = (),
    tags: Sequence[str] = (),
    text: str | None = None,
    deleted: bool = False,
    sort: StudySort = StudySort.created_at,
    order: SortOrder = SortOrder.desc,
    cursor: str | None = None,
    limit: int = paging.DEFAULT_LIMIT,
) -> Versioned:
    """One page of the user's studies, newest first.

    Args:
        name: only the study of this name.
        states: only studies that have a trial in one of them.
        tags: only studies that have all of them.
        text: only studies whose name or note or one of whose tags contains it.
        deleted: those that were deleted and are not purged yet, instead of the others.

    Raises:
        CursorInvalid: the cursor belongs to another list or order.
    """
    where = [Study.owner_id == owner_id, Study.deleted_at.is_not(None) if deleted else Study.deleted_at.is_(None)]
    if name is not None:
        where.append(Study.name == name)
    if states:
        in_state = Trial.study_id == Study.id, Trial.state.in_([state.value for state in states])
        where.append(select(Trial.id).where(*in_state).exists())
    if tags:
        where.append(searching.has_tags(Study.tags, tags))
    if text:
        where.append(searching.contains(session, text, Study.name, Study.note, tags=Study.tags))
    rows = select(Study.id, STORED, Study.updated_at).where(*where)
    listed = "deleted studies" if deleted else "studies"
    ordered = sorting.Order(listed, sort, SORTS[sort], Study.id, descending=order == SortOrder.desc)
    index = cache(lambda: ordered.index(session, rows, limit, cursor))
    trials = cache(lambda: trials_of(session, index().keys))
    version = lambda: versions.of_json(f"{index().version} {trials()}".encode())

    def read() -> tuple[schemas.StudyPage, str]:
        shown = trials()
        rows = session.scalars(select(Study).where(index().holds(Study.id)))
        found = [study for study in index().arrange(rows, Study.id) if study.id in shown]  # some may be purged by now
        items = tuple(_summaries(session, found, shown))
        return schemas.StudyPage(items=items, next_cursor=index().next_cursor), version()

    return Versioned(version, read)


def _summaries(session: Session, found: Sequence[Study], trials: dict[UUID, Trials]) -> list[schemas.StudySummary]:
    shown = {one for study in trials.values() for one in (study.best, study.running) if one is not None}
    # Parts of the specification alone: the whole has the attributes that its user submitted.
    spec = (part for name in ("folds", "response", "train_on", "timeout") for part in (name, Trial.spec[name]))
    columns = (
        Trial.id, Trial.number, Trial.state, Trial.step, Trial.n_steps, Trial.ends_after, Trial.attempt, Trial.seconds,
        Trial.lease_owner, Trial.pace, Trial.sparkline, Trial.best_step, Trial.best_value, Trial.evidence, Trial.error,
        func.jsonb_path_query_array(Trial.hyperparameters, literal_column("'$[*].shape'")).label("shapes"),
        func.jsonb_strip_nulls(func.jsonb_build_object(*spec)).label("spec"),
    )  # fmt: skip
    rows = {row.id: row for row in session.execute(select(*columns).where(Trial.id.in_(shown)))}
    kept = timedelta(days=settings_of(session).keep_unused_days)
    return [_summary(study, trials[study.id], rows, kept) for study in found]


def _summary(
    study: Study, trials: Trials, rows: dict[UUID, Row[*tuple[Any, ...]]], kept: timedelta
) -> schemas.StudySummary:
    best = None if trials.best is None else rows.get(trials.best)
    running = None if trials.running is None else rows.get(trials.running)
    return schemas.StudySummary(
        **studies.fields(study, trials),
        last_activity_at=trials.last_activity_at,
        verdict=None if best is None else _verdict(best),
        sparkline=schemas.Curve() if best is None else queries.curve(cast("Trial", best)),
        running=None if running is None else _progress(running),
        deleted_at=study.deleted_at,
        purged_after=None if study.deleted_at is None else study.deleted_at + kept,
    )


def _verdict(trial: Row[*tuple[Any, ...]]) -> schemas.Verdict | None:
    return rankings.verdict(trial.evidence, [{"shape": shape} for shape in trial.shapes or ()], trial.spec, trial.error)


def _progress(trial: Row[*tuple[Any, ...]]) -> schemas.TrialProgress | None:
    if trial.state != State.running.value:  # it has ended since
        return None
    shown = {"id": trial.id, "number": trial.number, "step": trial.step, "n_steps": trial.n_steps}
    shown |= {"worker": trial.lease_owner, **queries.pace(cast("Trial", trial))}
    return schemas.TrialProgress.model_validate(shown)
