"""What all schemas share: constants of the interface, and constrained types."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from nestor.errors import NestorError, SchemaInvalid
from nestor.options.base import MAX_STEPS as MOST_STEPS
from nestor.options.base import Value
from nestor.program_format import Json as Json

API = "/api/v1"
CHUNK_BYTES = 4 * 1024 * 1024  # an upload travels, and a blob is stored, in pieces of this size


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("text", "it must not contain NUL characters")
    return text


Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Name = Annotated[
    str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True), AfterValidator(_without_nul)
]
TensorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,199}$")]
Count = Annotated[int, Field(ge=1, le=MOST_STEPS)]
Priority = Annotated[int, Field(ge=-1000, le=1000)]  # higher goes first; above 0 requires an admin token


class Schema(Value):
    """What all schemas share: unknown fields are errors, instances are values.

    Building one from wrong values raises `SchemaInvalid`, in place of pydantic's own error.
    """

    invalid: ClassVar[type[NestorError]] = SchemaInvalid
