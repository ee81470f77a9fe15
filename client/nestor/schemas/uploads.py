"""Blobs, and the programs and data sets that they are parts of."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from nestor.options.base import about
from nestor.schemas.base import EXAMPLE_DIGEST, Digest, Schema
from nestor.schemas.references import Split


class BlobCreate(Schema):
    """The announcement of an upload."""

    digest: Annotated[Digest, about("SHA-256 of all bytes", example=EXAMPLE_DIGEST)]
    size: Annotated[int, about("number of bytes", unit="bytes", ge=0, le=2**62, example=1_048_576)]


class Upload(Schema):
    """How far an upload got."""

    id: Annotated[UUID | None, about("null: the blob is already stored, and nothing is to be sent")]
    digest: Annotated[Digest, about("as announced", example=EXAMPLE_DIGEST)]
    offset: Annotated[int, about("bytes that arrived; send the rest from here", unit="bytes", example=0)]
    size: Annotated[int, about("as announced", unit="bytes", example=1_048_576)]


class ProgramCreate(Schema):
    """A program to register: its two blobs, which must be uploaded before."""

    graphs: Annotated[
        Digest, about("the document with the graphs, JSON; see nestor.program_format", example=EXAMPLE_DIGEST)
    ]
    tensors: Annotated[
        Digest,
        about("initial parameters, buffers and hyperparameters, and constants, as safetensors", example=EXAMPLE_DIGEST),
    ]


class Program(ProgramCreate):
    """A registered program."""

    id: Annotated[UUID, about("names the program in a trial's problem")]
    torch: Annotated[str, about("minor version of torch that exported it, such as 2.13", example="2.13")]
    created_at: Annotated[datetime, about("in UTC")]


class DatasetCreate(Schema):
    """Splits of equally long columns: each a safetensors blob, or files by reference."""

    train: Annotated[Split, about("training examples", example=EXAMPLE_DIGEST)]
    val: Annotated[Split, about("validation examples", example=EXAMPLE_DIGEST)]
    test: Annotated[Split | None, about("test examples; null: there is no test set", example=EXAMPLE_DIGEST)] = None


class Dataset(DatasetCreate):
    """A registered data set."""

    id: Annotated[UUID, about("names the data set in a trial's problem")]
    sizes: Annotated[dict[str, int], about("number of examples in each split", example={"train": 1_000, "val": 300})]
    created_at: Annotated[datetime, about("in UTC")]
