"""Validates and records data sets: splits whose columns have equal lengths and finite numbers."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.errors import (
    ColumnNotFinite,
    ColumnReserved,
    ColumnsMissing,
    DataLengthsDiffer,
    DatasetNotFound,
    SplitEmpty,
    SplitNotSafetensors,
)
from nestor.program_format import INDEX
from nestor_server.models import Blob, Dataset
from nestor_server.storage import blobs, tensor_blobs
from nestor_server.storage.safetensors_header import Malformed


def create(session: Session, owner_id: UUID, new: schemas.DatasetCreate) -> schemas.Dataset:
    """Record a data set whose splits were uploaded.

    Raises:
        BlobNotFound: a digest is not of a complete blob of this owner.
        DatasetInvalid: a split is empty, has columns of different lengths, is not finite, or is not safetensors.
    """
    splits = new.model_dump(exclude_none=True)
    found = {split: blobs.find_and_retain(session, owner_id, digest) for split, digest in splits.items()}
    sizes = {split: _examples(session, split, blob) for split, blob in found.items()}
    dataset = Dataset(owner_id=owner_id, splits=splits, sizes=sizes)
    session.add(dataset)
    session.flush()
    session.refresh(dataset)
    return schemas.Dataset(id=dataset.id, sizes=sizes, created_at=dataset.created_at, **splits)


def get(session: Session, owner_id: UUID, dataset_id: UUID) -> Dataset:
    """The data set of this owner, locked against deletion until the transaction ends.

    Raises:
        DatasetNotFound: the user has no such data set.
    """
    query = select(Dataset).where(Dataset.id == dataset_id, Dataset.owner_id == owner_id)
    locking = query.with_for_update(read=True, key_share=True)  # or garbage collection could delete it
    dataset = session.scalars(locking).one_or_none()
    if dataset is None:
        raise DatasetNotFound(dataset=str(dataset_id))
    return dataset


def _examples(session: Session, split: str, blob: Blob) -> int:
    """The number of examples of a valid split."""
    try:
        columns = tensor_blobs.header(session, blob).tensors
    except Malformed as error:
        raise SplitNotSafetensors(split=split, reason=error) from None
    if not columns:
        raise ColumnsMissing(split=split)
    if INDEX in columns:
        raise ColumnReserved(split=split, column=INDEX)
    lengths = {name: column.shape[0] if column.shape else "a scalar" for name, column in columns.items()}
    examples = next(iter(lengths.values()))
    if len(set(lengths.values())) != 1 or isinstance(examples, str):
        raise DataLengthsDiffer(split=split, lengths=dict(sorted(lengths.items())))
    if examples == 0:
        raise SplitEmpty(split=split)
    if column := tensor_blobs.first_not_finite(session, blob, columns.values()):
        raise ColumnNotFinite(split=split, column=column.name)
    return examples
