"""Studies: create, find, describe, change and delete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import delete as delete_from
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.errors import StudyExists, StudyNotFound
from nestor_server.limits import quotas
from nestor_server.limits.quotas import Amounts
from nestor_server.models import UNFINISHED, Study, Trial, Webhook
from nestor_server.scheduling import leases
from nestor_server.services import versions
from nestor_server.services.study_trials import Trials, trials_of


def create(session: Session, owner_id: UUID, new: schemas.StudyCreate) -> tuple[schemas.Study, bool]:
    """The study, and whether it is new.

    Raises:
        StudyExists: the user has a study of that name, and `load_if_exists` is not set.
        RankingDiffers: `load_if_exists` is set, and the study ranks its trials in another way.
        QuotaExceeded
    """
    fields = new.model_dump(exclude={"load_if_exists", "tags"}, exclude_none=True)
    query = select(Study).where(Study.owner_id == owner_id, Study.name == new.name, Study.deleted_at.is_(None))
    if session.scalar(query.with_only_columns(Study.id)) is None:
        quotas.take(session, owner_id, Amounts(studies=1))
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
    study = session.scalars(query).one()
    study.ranking.expect_same(study.name, new.metric, new.direction)
    return describe(session, [study])[0], False


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
    changed = patch.apply(study.user_attrs, study.tags, study.note)
    study.user_attrs, study.tags, study.note = changed["user_attrs"], list(changed["tags"]), changed["note"]
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
    trials = trials_of(session, [study.id for study in found])
    return [schemas.Study(**fields(study, trials[study.id])) for study in found]


def fields(study: Study, trials: Trials) -> dict[str, Any]:
    """Those of a `schemas.Study`."""
    return {
        "id": study.id,
        "name": study.name,
        "metric": study.metric,
        "direction": study.direction,
        "user_attrs": study.user_attrs,
        "tags": tuple(study.tags),
        "note": study.note,
        "created_at": study.created_at,
        "updated_at": study.updated_at,
        "trial_counts": trials.counts,
        "best_value": trials.best_value,
        "best_trial": trials.best_number,
        "best_trial_id": trials.best,
    }
