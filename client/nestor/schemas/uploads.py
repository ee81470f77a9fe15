"""Blobs, and the programs and data sets that they are parts of."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field

from nestor.schemas.base import Digest, Schema


class BlobCreate(Schema):
    digest: Digest
    size: Annotated[int, Field(ge=0)]


class Upload(Schema):
    id: UUID | None  # None: the blob is already there
    digest: Digest
    offset: int
    size: int


class ProgramCreate(Schema):
    graphs: Digest  # JSON, see nestor_engine.program
    tensors: Digest  # safetensors: initial parameters, buffers and hyperparameters, and constants


class Program(ProgramCreate):
    id: UUID
    torch: str  # "2.13": the minor version that it was exported with
    created_at: datetime


class DatasetCreate(Schema):
    """Splits, each a safetensors blob of equally long columns."""

    train: Digest
    val: Digest
    test: Digest | None = None


class Dataset(DatasetCreate):
    id: UUID
    sizes: dict[str, int]  # examples in each split
    created_at: datetime
