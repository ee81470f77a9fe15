"""Deletes what is no longer needed: blobs that nothing refers to, unused uploads after a retention period, old keys."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Delete, delete, exists, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from nestor.program_format import SPLITS
from nestor_server.database import settings_of
from nestor_server.models import (
    IDEMPOTENCY_WINDOW,
    UNFINISHED,
    Blob,
    Checkpoint,
    Dataset,
    IdempotencyKey,
    Program,
    Result,
    Snapshot,
    Study,
    Token,
    Trial,
)

MOST_IDEMPOTENCY_KEYS = 20_000  # of a token

_BY_DIGEST = (Program.graphs, Program.tensors)
_UPLOADED = (Blob.digest, func.jsonb_build_object("uploaded", Blob.digest))  # a split; the rest of one by reference
_SPLITS = tuple(func.jsonb_build_object(name, part) for name in SPLITS for part in _UPLOADED)
# Counted, because PostgreSQL reads one data set after the other if it only looks for the first that fits.
_DATASETS = select(func.count()).where(
    Dataset.owner_id == Blob.owner_id, or_(*(Dataset.splits.contains(split) for split in _SPLITS))
)
USED = or_(
    exists().where(Snapshot.blob_id == Blob.id),
    exists().where(Checkpoint.blob_id == Blob.id),
    exists().where(Result.blob_id == Blob.id),
    exists().where(Trial.start_blob_id == Blob.id),
    exists().where(Program.owner_id == Blob.owner_id, or_(*(d == Blob.digest for d in _BY_DIGEST))),
    _DATASETS.scalar_subquery() > 0,
)


def delete_unreferenced(session: Session, blob_ids: Collection[UUID]) -> None:
    """Delete those of `blob_ids` that no snapshot, checkpoint, result, trial, program or data set refers to."""
    if blob_ids:
        _delete(session, delete(Blob).where(Blob.id.in_(blob_ids), ~USED, _unwanted(session)))


def purge_expired(session: Session) -> None:
    """Delete what has been unused for `NESTOR_KEEP_UNUSED_DAYS`.

    This removes deleted studies first, then programs and data sets without a trial, and last their blobs, whether
    their uploads were completed or not.
    """
    cutoff = _cutoff(session)
    unfinished = exists().where(Trial.study_id == Study.id, Trial.state.in_(UNFINISHED))
    _delete(session, delete(Study).where(Study.deleted_at < cutoff, ~unfinished))
    for table, key in ((Program, Trial.program_id), (Dataset, Trial.dataset_id)):
        _delete(session, delete(table).where(table.created_at < cutoff, ~exists().where(key == table.id)))
    _delete(session, delete(Blob).where(Blob.created_at < cutoff, ~USED, _unwanted(session)))


def purge_idempotency_keys(session: Session) -> None:
    """Delete old keys, and of each token all but the newest: a client repeats a request within minutes."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < func.now() - IDEMPOTENCY_WINDOW))
    newest = select(IdempotencyKey.created_at).where(IdempotencyKey.token_id == Token.id)
    newest = newest.order_by(IdempotencyKey.created_at.desc()).offset(MOST_IDEMPOTENCY_KEYS).limit(1)
    ends = select(Token.id, newest.scalar_subquery().label("at")).subquery()
    beyond = delete(IdempotencyKey).where(IdempotencyKey.token_id == ends.c.id, IdempotencyKey.created_at <= ends.c.at)
    session.execute(beyond)


def _unwanted(session: Session) -> ColumnElement[bool]:
    """No client has announced or used the blob within the retention period. One that has may soon refer to it."""
    return or_(Blob.wanted_at.is_(None), Blob.wanted_at < _cutoff(session))


def _cutoff(session: Session) -> ColumnElement[datetime]:
    return func.now() - timedelta(days=settings_of(session).keep_unused_days)


def _delete(session: Session, unused: Delete) -> None:
    # A concurrent transaction may begin to refer to one of the rows. Then none of them is deleted this time.
    with suppress(IntegrityError), session.begin_nested():
        session.execute(unused.execution_options(synchronize_session=False))
