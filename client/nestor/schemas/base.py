"""What all schemas share: constants of the interface, constrained types, and how a choice is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from nestor.errors import SchemaInvalid
from nestor.program_format import Json as Json
from nestor.schemas.validation import explain

API = "/api/v1"
MOST_STEPS = 2**31 - 1  # of a trial
CHUNK_BYTES = 4 * 1024 * 1024  # an upload travels, and a blob is stored, in pieces of this size

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]
TensorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,199}$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=MOST_STEPS)]
Priority = Annotated[int, Field(ge=-1000, le=1000)]  # higher goes first; above 0 takes a token of the scope admin


class Schema(BaseModel):
    """What all schemas share: unknown fields are errors, instances are values.

    Building one from wrong values raises `SchemaInvalid`, in place of pydantic's own error.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    if not TYPE_CHECKING:  # type checkers know the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise SchemaInvalid(reason=explain(type(self), error)) from None

        __init__.__pydantic_base_init__ = True  # inside another schema, its mistakes are reported with the others


def _by_kind(value: Any) -> Any:
    """Let a choice be written short: "hessian" and {"neumann": {"terms": 3}} for {"kind": "neumann", "terms": 3}."""
    if isinstance(value, str):
        return {"kind": value}
    if isinstance(value, dict) and len(cast(dict[Any, Any], value)) == 1 and "kind" not in value:
        ((kind, options),) = cast(dict[Any, Any], value).items()
        if isinstance(options, dict):
            return {"kind": kind, **cast(dict[Any, Any], options)}
    return cast(Any, value)


Tagged = Field(discriminator="kind")
Short = BeforeValidator(_by_kind)
