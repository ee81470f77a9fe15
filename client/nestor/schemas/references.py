"""Splits by reference: files that workers read where they lie."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, StringConstraints, Tag, WithJsonSchema
from pydantic_core import PydanticCustomError

from nestor.data.reference import MAX_URI, Ref
from nestor.errors import ReferenceInvalid
from nestor.options.base import about
from nestor.schemas.base import EXAMPLE_DIGEST, Digest, Schema

Dtype = Literal["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Dimension = Annotated[int, Field(ge=0, le=2**62)]


def _expect_uri(uri: str) -> str:
    try:
        return Ref(uri).uri
    except ReferenceInvalid as error:
        raise PydanticCustomError("reference-invalid", "{sentence}", {"sentence": str(error)}) from None


class ReferencedColumn(Schema):
    """A column of a split that lies in a file."""

    source: Annotated[
        Annotated[str, Field(max_length=256)],
        about("its name in the file; empty for an .npy file, which has no names", example="pixels"),
    ]
    dtype: Annotated[Dtype, about("that of its batches, as safetensors names it; the file may hold other floats")]
    shape: Annotated[
        tuple[Dimension, ...],
        about("the number of examples, then the shape of one", example=[60_000, 784]),
        Field(min_length=1, max_length=16),
    ]


class ReferencedFile(Schema):
    """A file that workers can read, and the columns that it gives to a split."""

    uri: Annotated[
        Annotated[
            str,
            AfterValidator(_expect_uri),
            WithJsonSchema({"type": "string", "maxLength": MAX_URI, "pattern": "^(file|s3)://"}),
        ],
        about(
            "file:///path or s3://bucket/key, with the extension .safetensors, .npy or .parquet",
            example="s3://bucket/train.parquet",
        ),
    ]
    digest: Annotated[
        Digest, about("SHA-256 of the file; a trial fails if a worker finds another one", example=EXAMPLE_DIGEST)
    ]
    columns: Annotated[
        dict[ColumnName, ReferencedColumn],
        about(
            "by their names in the split", example={"x": {"source": "pixels", "dtype": "F32", "shape": [60_000, 784]}}
        ),
        Field(min_length=1, max_length=1_000),
    ]


class ReferencedSplit(Schema):
    """A split whose columns lie in files; some of them may have been uploaded."""

    files: Annotated[
        tuple[ReferencedFile, ...], about("the referenced files, each once"), Field(min_length=1, max_length=100)
    ]
    uploaded: Annotated[
        Digest | None,
        about("a safetensors blob with the other columns; null: all columns lie in files", example=EXAMPLE_DIGEST),
    ] = None


def _kind_of_split(value: Any) -> str | None:
    """Which alternative is meant, so that only its mistakes are reported."""
    if isinstance(value, str):
        return "Digest"
    return "ReferencedSplit" if isinstance(value, dict | ReferencedSplit) else None


Split = Annotated[
    Annotated[Digest, Tag("Digest")] | Annotated[ReferencedSplit, Tag("ReferencedSplit")],
    Discriminator(
        _kind_of_split,
        custom_error_type="split",
        custom_error_message='it must be the digest of a blob, or {"files": […]} with references',
    ),
]
