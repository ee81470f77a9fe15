"""Studies: create, list with the state of their trials, change and delete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy import delete as delete_from
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.errors import StudyExists, StudyNotFound
from nestor.schemas import State
from nestor_server.models import Study, Trial, Webhook
from nestor_server.scheduling import leases
from nestor_server.services import paging, versions
from nestor_server.services.versions import Versioned

STORED = paging.stored_bytes(Study.user_attrs)

UNFINISHED = [state.value for state in State if not state.finished]


def create(session: Session, owner_id: UUID, new: schemas.StudyCreate) -> tuple[schemas.Study, bool]:
    """The study, and whether it is new.

    Raises:
        StudyExists: the user has a study of that name, and `load_if_exists` is not set.
        RankingDiffers: `load_if_exists` is set, and the study ranks its trials in another way.
    """
    fields = new.model_dump(exclude={"load_if_exists", "tags"}, exclude_none=True)
    created = session.scalars(
        insert(Study)
        .values(owner_id=owner_id, **fields, tags=list(new.tags))
        .on_conflict_do_nothing(index_elements=[Study.owner_id, Study.name], index_where=Study.deleted_at.is_(None))
        .returning(Study)
    ).one_or_none()
    if created is not None:
        return describe(session, [created])[0], True
    if not new.load_if_exists:
        raise StudyExists(name=new.name)
    query = select(Study).where(Study.owner_id == owner_id, Study.name == new.name, Study.deleted_at.is_(None))
    study = session.scalars(query).one()
    study.ranking.expect_same(study.name, new.metric, new.direction)
    return describe(session, [study])[0], False


def page(
    session: Session,
    owner_id: UUID,
    *,
    name: str | None = None,
    cursor: str | None = None,
    limit: int = paging.DEFAULT_LIMIT,
) -> Versioned:
    """One page of the user's studies, newest first.

    Raises:
        InvalidInput: the cursor belongs to another list.
    """
    where = [Study.owner_id == owner_id, Study.deleted_at.is_(None)]
    if name is not None:
        where.append(Study.name == name)
    if cursor is not None:
        where.append(Study.id < paging.decode(cursor, UUID))
    rows = select(Study.id, STORED, Study.updated_at).where(*where).order_by(Study.id.desc())
    index = cache(lambda: paging.index(session, rows, limit))
    trials = cache(lambda: _trials(session, index().keys))
    version = lambda: versions.of_json(f"{index().version} {trials()}".encode())

    def read() -> tuple[schemas.StudyPage, str]:
        found = session.scalars(select(Study).where(index().holds(Study.id)).order_by(Study.id.desc())).all()
        items = tuple(_describe(study, trials()[study.id]) for study in found)
        return schemas.StudyPage(items=items, next_cursor=index().next_cursor), version()

    return Versioned(version, read)


def find(session: Session, owner_id: UUID, study_id: UUID, *, lock: bool = False) -> Study:
    """The table row of a study; `lock` makes concurrent changes of it wait for this transaction.

    Raises:
        StudyNotFound: the user has no such study, or it was deleted.
    """
    query = select(Study).where(Study.id == study_id, Study.owner_id == owner_id, Study.deleted_at.is_(None))
    study = session.scalars(query.with_for_update(key_share=True) if lock else query).one_or_none()
    if study is None:
        raise StudyNotFound(study=str(study_id))
    return study


def get(session: Session, owner_id: UUID, study_id: UUID) -> schemas.Study:
    """One study.

    Raises:
        StudyNotFound
    """
    return describe(session, [find(session, owner_id, study_id)])[0]


def change(
    session: Session, owner_id: UUID, study_id: UUID, patch: schemas.StudyPatch, *, if_match: str | None = None
) -> schemas.Study:
    """Change a study. Concurrent changes of different attributes are all kept, because they follow each other.

    Raises:
        StudyNotFound
        RankingDiffers: the study has trials, whose best weights were kept by its metric and direction.
        LossMaximized: it would rank by the highest loss.
        VersionMismatch: `if_match` names another version.
    """
    study = find(session, owner_id, study_id, lock=True)
    _expect(session, study, if_match)
    ranking = study.ranking.changed(patch, study=study.name, has_trials=study.next_number > 0)
    study.metric, study.direction = ranking.metric, ranking.direction
    user_attrs, tags = patch.apply(study.user_attrs, study.tags)
    study.user_attrs, study.tags = user_attrs, list(tags)
    study.updated_at = func.now()
    session.flush()
    session.refresh(study)
    return describe(session, [study])[0]


def delete(session: Session, owner_id: UUID, study_id: UUID, *, by: str = "user", if_match: str | None = None) -> None:
    """Mark a study as deleted, which frees its name, cancel its unfinished trials, and delete its webhooks.

    Raises:
        StudyNotFound
        VersionMismatch: `if_match` names another version.
    """
    study = find(session, owner_id, study_id, lock=True)
    _expect(session, study, if_match)
    study.deleted_at = func.now()
    session.flush()
    for trial in session.scalars(select(Trial).where(Trial.study_id == study_id, Trial.state.in_(UNFINISHED))).all():
        leases.request(session, trial, "cancel", by=by)
    session.execute(delete_from(Webhook).where(Webhook.study_id == study_id))


def _expect(session: Session, study: Study, if_match: str | None) -> None:
    if if_match is not None:
        shown = describe(session, [study])[0].model_dump_json().encode()
        versions.expect(if_match, "study", versions.of_json(shown))


def describe(session: Session, found: Sequence[Study]) -> list[schemas.Study]:
    """The studies as the REST interface shows them."""
    trials = _trials(session, [study.id for study in found])
    return [_describe(study, trials[study.id]) for study in found]


@dataclass(frozen=True)
class _Trials:
    """Of a study: their number by state, and the extremes of the best values of those that can be its best."""

    counts: dict[str, int]
    lowest: float | None
    highest: float | None


def _trials(session: Session, study_ids: Sequence[UUID]) -> dict[UUID, _Trials]:
    """The trials of several studies. Indexes alone tell of those that have ended."""
    counts: dict[UUID, dict[str, int]] = {study_id: {} for study_id in study_ids}
    states = select(Trial.study_id, Trial.state, func.count()).where(Trial.study_id.in_(study_ids))
    for study_id, state, count in session.execute(states.group_by(Trial.study_id, Trial.state)):
        counts[study_id][state] = count
    extremes: list[ColumnElement[float | None]] = []
    for extreme, outer in ((func.min, func.least), (func.max, func.greatest)):
        ended = select(extreme(Trial.ended_value)).where(Trial.study_id == Study.id, Trial.ended_value.is_not(None))
        others = select(extreme(Trial.best_value)).where(
            Trial.study_id == Study.id, Trial.state.in_(UNFINISHED), Trial.tunes
        )
        extremes.append(outer(ended.scalar_subquery(), others.scalar_subquery()))
    best = session.execute(select(Study.id, *extremes).where(Study.id.in_(study_ids)))
    return {study_id: _Trials(counts[study_id], *values) for study_id, *values in best}


def _describe(study: Study, trials: _Trials) -> schemas.Study:
    return schemas.Study(
        id=study.id,
        name=study.name,
        metric=study.metric,
        direction=study.direction,
        user_attrs=study.user_attrs,
        tags=tuple(study.tags),
        created_at=study.created_at,
        updated_at=study.updated_at,
        trial_counts=trials.counts,
        best_value=trials.lowest if study.direction == "minimize" else trials.highest,
    )
