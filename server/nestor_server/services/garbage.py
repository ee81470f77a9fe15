"""Deletes blobs that nothing refers to any more."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from uuid import UUID

from sqlalchemy import String, cast, delete, exists, or_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from nestor_server.models import Blob, Checkpoint, Dataset, Program, Snapshot, Trial

SPLITS = ("train", "val", "test")


def collect(session: Session, blob_ids: Collection[UUID]) -> None:
    """Delete those of `blob_ids` that no snapshot, checkpoint, trial, program or data set of their owner refers to."""
    if not blob_ids:
        return
    by_digest = (Program.graphs, Program.tensors)
    splits = tuple(Dataset.splits[name].astext for name in SPLITS)
    used = or_(
        exists().where(Snapshot.blob_id == Blob.id),
        exists().where(Checkpoint.blob_id == Blob.id),
        exists().where(Trial.start_blob_id == Blob.id),
        exists().where(Program.owner_id == Blob.owner_id, or_(*(d == Blob.digest for d in by_digest))),
        exists().where(Dataset.owner_id == Blob.owner_id, or_(*(d == cast(Blob.digest, String) for d in splits))),
    )
    unused = delete(Blob).where(Blob.id.in_(blob_ids), ~used).execution_options(synchronize_session=False)
    # Someone may begin to refer to one of them this very moment: then it is not garbage, and nothing is deleted.
    with suppress(IntegrityError), session.begin_nested():
        session.execute(unused)
