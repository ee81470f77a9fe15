"""What schemas share: constants of the interface, constrained types, common fields, and how they are built."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError, PydanticKnownError

from nestor.errors import AttributesTooLarge, NestorError, SchemaInvalid
from nestor.options.base import MAX_STEPS as MOST_STEPS
from nestor.options.base import Value, Whole, about
from nestor.options.mistakes.sentences import as_error, mistakes, violation
from nestor.program_format import Json as Json
from nestor.schemas.storable import MAX_ATTRIBUTES_BYTES, json_bytes

API = "/api/v1"
CHUNK_BYTES = 4 * 1024 * 1024  # an upload travels, and a blob is stored, in pieces of this size

Model = TypeVar("Model", bound=BaseModel)


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("text", "it must not contain NUL characters")
    return text


def _name(text: str) -> str:
    if not (name := _without_nul(text).strip()):
        raise PydanticKnownError("string_too_short", {"min_length": 1})
    return name


def _bounded(attrs: dict[str, Any]) -> dict[str, Any]:
    if (size := json_bytes(attrs)) > MAX_ATTRIBUTES_BYTES:
        raise violation(AttributesTooLarge, size=size, limit=MAX_ATTRIBUTES_BYTES)
    return attrs


EXAMPLE_DIGEST = "sha256:" + hashlib.sha256().hexdigest()  # of no bytes

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    AfterValidator(_name),
    WithJsonSchema(  # the pattern says what `_name` refuses
        {"type": "string", "minLength": 1, "maxLength": 200, "pattern": r"^[^\u0000]*[^\s\u0000][^\u0000]*$"}
    ),
]
Note = Annotated[  # Markdown
    str,
    StringConstraints(max_length=65_536),
    AfterValidator(_without_nul),
    WithJsonSchema({"type": "string", "maxLength": 65_536, "pattern": r"^[^\u0000]*$"}),
]
Tags = Annotated[tuple[Name, ...], Field(max_length=100)]
TensorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,199}$")]
Attributes = Annotated[dict[str, Any], AfterValidator(_bounded)]
Count = Annotated[Whole, Field(ge=1, le=MOST_STEPS)]
Priority = Annotated[Whole, Field(ge=-1000, le=1000)]  # higher goes first; above 0 requires an admin token

SEQ = about("number of the trial's newest event when this was read", example=17)
CURSOR = about("pass it as `cursor` to get the next page; null: this is the last page", example="IjAxOGYi")
NOTE = about("text in Markdown, up to 65,536 characters; empty: none", example="Baseline with **one** decay per layer.")


class SortOrder(StrEnum):
    """Which way a list is sorted."""

    asc = "asc"
    desc = "desc"


class Schema(Value):
    """What all schemas share: unknown fields are errors, instances are values.

    Building one from wrong values raises `SchemaInvalid`, in place of pydantic's own error.
    """

    invalid: ClassVar[type[NestorError]] = SchemaInvalid


def build(model: type[Model], values: Mapping[str, Any]) -> Model:
    """A `model` of `values`, which a user gave.

    Raises:
        OptionInvalid: one field is wrong; it is raised as the class of that mistake.
        SchemaInvalid: several fields are wrong; `errors` lists them.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        found = mistakes(model, error)
        raise (found[0].error() if len(found) == 1 else as_error(found, SchemaInvalid)) from None
