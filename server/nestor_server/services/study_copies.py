"""Restores deleted studies, and copies studies with their finished trials."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import uuid_utils.compat
from sqlalchemy import ARRAY, JSON, Text, any_, func, literal, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import KeyedColumnElement

from nestor import schemas
from nestor.errors import StudyNameTaken, StudyNotDeleted, StudyNotFound, StudyTooLarge
from nestor_server.limits import quotas
from nestor_server.limits.quotas import Amounts
from nestor_server.models import (
    FINISHED,
    Base,
    Checkpoint,
    Distribution,
    Event,
    Result,
    Snapshot,
    Step,
    StepNumbers,
    Study,
    Trial,
)
from nestor_server.services import studies

# Of one copy, which is one transaction.
MAX_TRIALS = 10_000
MAX_ENTRIES = 100_000  # steps and events
MAX_BYTES = 256 * 2**20  # of columns without a bound, as PostgreSQL stores them

Record = Step | StepNumbers | Distribution | Event | Snapshot | Checkpoint | Result
# The files stay where they are.
RECORDS: tuple[type[Record], ...] = (Step, StepNumbers, Distribution, Event, Snapshot, Checkpoint, Result)


def restore(session: Session, owner_id: UUID, study_id: UUID, how: schemas.StudyRestore) -> schemas.Study:
    """Take back the deletion of a study, under a new name if `how` has one. What is not deleted stays as it is.

    Raises:
        StudyNotFound: the user has no such study, or it was purged.
        StudyNameTaken: another study has the name.
        StudyNotDeleted: the study was not deleted, and has another name than the new one.
    """
    query = select(Study).where(Study.id == study_id, Study.owner_id == owner_id)
    study = session.scalars(query.with_for_update(key_share=True)).one_or_none()
    if study is None:
        raise StudyNotFound(study=str(study_id))
    if study.deleted_at is None:
        if how.name not in (None, study.name):
            raise StudyNotDeleted(name=study.name)
        return studies.describe(session, [study])[0]
    name = study.name if how.name is None else how.name
    with _naming(session, name):
        study.name, study.deleted_at, study.updated_at = name, None, func.now()
    session.refresh(study)
    return studies.describe(session, [study])[0]


def copy(session: Session, owner_id: UUID, study_id: UUID, new: schemas.StudyCopy) -> schemas.Study:
    """A new study with the attributes, tags, note and ranking of another, and copies of its finished trials.

    Raises:
        StudyNotFound
        StudyNameTaken: another study has the name.
        StudyTooLarge: its finished trials have recorded too much.
        QuotaExceeded
    """
    study = studies.find(session, owner_id, study_id)
    trials = _finished(session, study)
    quotas.take(session, owner_id, Amounts(studies=1, trials=len(trials)))
    copied = {one: getattr(study, one) for one in ("metric", "direction", "user_attrs", "tags", "note")}
    made = Study(owner_id=owner_id, name=new.name, **copied, next_number=len(trials))
    with _naming(session, new.name):
        session.add(made)
    _copy_trials(session, trials, made.id)
    session.refresh(made)
    return studies.describe(session, [made])[0]


@contextmanager
def _naming(session: Session, name: str) -> Generator[None]:
    """A block that gives a study this name.

    Raises:
        StudyNameTaken: another study has it.
    """
    try:
        with session.begin_nested():
            yield
    except IntegrityError:
        raise StudyNameTaken(name=name) from None


def _finished(session: Session, study: Study) -> list[UUID]:
    """The finished trials of a study in order of their numbers, locked so that they stay as they are.

    Raises:
        StudyTooLarge
    """
    of_study = Trial.study_id == study.id, Trial.state.in_(FINISHED)
    n_trials, n_entries = session.execute(
        select(func.count(), func.coalesce(func.sum(Trial.seq), 0)).where(*of_study)
    ).one()
    for amount, limit, what in ((n_trials, MAX_TRIALS, "trials"), (n_entries, MAX_ENTRIES, "steps and events")):
        if amount > limit:
            raise StudyTooLarge(name=study.name, amount=f"{amount:,} {what}", limit=f"{limit:,}")
    locked = select(Trial.id).where(*of_study).order_by(Trial.number).with_for_update(read=True)
    trials = [*session.scalars(locked)]
    copied = any_(literal(trials, ARRAY(Trial.id.type)))
    n_bytes = 0
    for table, key in ((Trial, Trial.id), *((table, table.trial_id) for table in RECORDS)):
        sizes = [func.coalesce(func.sum(func.pg_column_size(column)), 0) for column in _unbounded(table)]
        n_bytes += sum(session.execute(select(*sizes).where(key == copied)).one()) if sizes else 0
    if n_bytes > MAX_BYTES:
        raise StudyTooLarge(name=study.name, amount=f"{n_bytes:,} bytes of records", limit=f"{MAX_BYTES:,}")
    return trials


def _stored(table: type[Base]) -> list[KeyedColumnElement[Any]]:
    """The columns that PostgreSQL does not compute."""
    return [column for column in table.__table__.columns if column.computed is None]


def _unbounded(table: type[Base]) -> list[KeyedColumnElement[Any]]:
    """Of these, the ones whose values may have any size."""
    return [column for column in _stored(table) if isinstance(column.type, JSON | ARRAY | Text)]


# Rows of trials, each with the id and the number of its copy.
def _copies(alias: str) -> str:
    return f"unnest(CAST(:old AS uuid[]), CAST(:new AS uuid[])) WITH ORDINALITY AS {alias} (old, new, number)"


def _copy_trials(session: Session, trials: list[UUID], study_id: UUID) -> None:
    """Copy the rows of trials, which get numbers in this order."""
    given = {"old": trials, "new": [uuid_utils.compat.uuid7() for _ in trials], "study": study_id}
    # What started from a trial of this study starts from its copy: that is how confirmations are found.
    values = {
        "id": "copies.new",
        "study_id": "CAST(:study AS uuid)",
        "number": "copies.number - 1",
        "spec": "CASE WHEN starts.new IS NULL THEN spec "
        "ELSE jsonb_set(spec, '{warm_start,trial}', to_jsonb(starts.new)) END",
    }
    starts = f"LEFT JOIN {_copies('starts')} ON starts_from = starts.old::text"
    _insert(session, Trial, values, f"trials ON trials.id = copies.old {starts}", given)
    for table in RECORDS:
        name = table.__tablename__
        _insert(session, table, {"trial_id": "copies.new"}, f"{name} ON trial_id = copies.old", given)


def _insert(session: Session, table: type[Base], values: dict[str, str], joined: str, given: dict[str, Any]) -> None:
    """Insert copies of rows, with other `values` in some columns."""
    columns = [column.name for column in _stored(table)]
    copied = (values.get(name, f"{table.__tablename__}.{name}") for name in columns)
    session.execute(
        text(
            f"INSERT INTO {table.__tablename__} ({', '.join(columns)}) "
            f"SELECT {', '.join(copied)} FROM {_copies('copies')} JOIN {joined}"
        ),
        given,
    )
