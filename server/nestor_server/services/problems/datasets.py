"""Validates and records data sets: splits whose columns have equal lengths and finite numbers."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.errors import (
    ColumnNotFinite,
    ColumnReserved,
    ColumnsMissing,
    ColumnTwice,
    DataLengthsDiffer,
    DatasetNotFound,
    SplitEmpty,
    SplitNotSafetensors,
)
from nestor.program_format import INDEX
from nestor_server.limits import quotas
from nestor_server.limits.quotas import LEAST_BYTES, Amounts
from nestor_server.models import Blob, Dataset
from nestor_server.storage import blobs, tensor_blobs
from nestor_server.storage.safetensors_header import Header, Malformed


def create(session: Session, owner_id: UUID, new: schemas.DatasetCreate) -> schemas.Dataset:
    """Record a data set whose splits were uploaded, or lie in files that workers can read.

    The server does not read such files. Workers compare them with what is recorded here.

    Raises:
        BlobNotFound: a digest is not of a complete blob of this owner.
        DatasetInvalid: a split is empty, has columns of different lengths, is not finite, or is not safetensors.
        QuotaExceeded
    """
    given = new.model_dump(mode="json")
    quotas.take(session, owner_id, Amounts(bytes=LEAST_BYTES + len(new.model_dump_json())))
    splits = {split: _Split.of(session, owner_id, split, one) for split, one in new if one is not None}
    sizes = {name: split.examples() for name, split in splits.items()}
    dataset = Dataset(owner_id=owner_id, splits={name: given[name] for name in splits}, sizes=sizes)
    session.add(dataset)
    session.flush()
    session.refresh(dataset)
    return record(dataset)


def record(dataset: Dataset) -> schemas.Dataset:
    """The data set as the API shows it."""
    return schemas.Dataset(id=dataset.id, sizes=dataset.sizes, created_at=dataset.created_at, **dataset.splits)


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


@dataclass(frozen=True)
class _Split:
    """A split to validate.

    Attributes:
        uploaded: the blob of the uploaded columns, if there are any, and its header.
        shapes: column → shape, of the uploaded columns and of those in referenced files.
    """

    session: Session
    name: str
    uploaded: tuple[Blob, Header] | None
    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, session: Session, owner_id: UUID, name: str, given: str | schemas.ReferencedSplit) -> _Split:
        """The split with the headers of its blob.

        Raises:
            BlobNotFound, DatasetInvalid: as `create`.
        """
        digest = given if isinstance(given, str) else given.uploaded
        uploaded = None if digest is None else _uploaded(session, owner_id, name, digest)
        shapes = {} if uploaded is None else {column: tensor.shape for column, tensor in uploaded[1].tensors.items()}
        for file in () if isinstance(given, str) else given.files:
            for column, referenced in file.columns.items():
                if column in shapes:
                    raise ColumnTwice(split=name, column=column)
                shapes[column] = referenced.shape
        return cls(session, name, uploaded, shapes)

    def examples(self) -> int:
        """The number of examples of a valid split.

        Raises:
            DatasetInvalid: as `create`.
        """
        if not self.shapes:
            raise ColumnsMissing(split=self.name)
        if INDEX in self.shapes:
            raise ColumnReserved(split=self.name, column=INDEX)
        lengths = {name: shape[0] if shape else "a scalar" for name, shape in self.shapes.items()}
        examples = next(iter(lengths.values()))
        if len(set(lengths.values())) != 1 or isinstance(examples, str):
            raise DataLengthsDiffer(split=self.name, lengths=dict(sorted(lengths.items())))
        if examples == 0:
            raise SplitEmpty(split=self.name)
        if self.uploaded is not None and (column := tensor_blobs.first_not_finite(self.session, *self.uploaded)):
            raise ColumnNotFinite(split=self.name, column=column.name)
        return examples


def _uploaded(session: Session, owner_id: UUID, split: str, digest: str) -> tuple[Blob, Header]:
    blob = blobs.find_and_retain(session, owner_id, digest)
    try:
        return blob, tensor_blobs.header(session, blob)
    except Malformed as error:
        raise SplitNotSafetensors(split=split, reason=error) from None
