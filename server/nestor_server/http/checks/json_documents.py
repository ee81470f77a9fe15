"""Reads JSON that anybody may have sent. Refuses what PostgreSQL or other readers do not take: NaN, NUL, deep lists."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ValidationError

from nestor.errors import NestorError, OptionInvalid, ValidationFailed, ValueNotStorable, shortened
from nestor.schemas.storable import first_fault
from nestor_server.http.checks.validation_errors import as_failure, entry

MAX_VALUES = 2**17  # entries of all lists and objects of a body; a megabyte could hold twice as many
MAX_MISTAKES = 1_000  # that are explained, some of them; pydantic takes a second to list a hundred thousand


def read(data: bytes, model: type[BaseModel]) -> Any:
    """The JSON document `data` as an instance of `model`. null stays None, because it may stand for no body.

    Time and memory are proportional to the bytes.

    Raises:
        ValidationFailed: it is no such instance, has too many values, or a field cannot be stored.
        ValueError, RecursionError: it is not JSON.
    """
    # Counted while still bytes, so those in texts count, too. The parser does not let other threads run.
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
        raise _failed(ValueNotStorable, "", f"The body has more than {MAX_VALUES:,} values", "Send fewer.")
    document = json.loads(data)
    _expect_storable("", document)
    if document is None:
        return None
    try:
        return model.model_validate(document)
    except ValidationError as error:
        if (n := error.error_count()) > MAX_MISTAKES:
            remedy = "Send what /openapi.json describes."
            raise _failed(OptionInvalid, "", f"The body has {n:,} mistakes", remedy) from None
        raise as_failure(_in_body(error), model) from None


async def require_storable_parameters(request: Request) -> None:
    """Check the query parameters of a request.

    Raises:
        ValidationFailed: the parameter that cannot be stored, and why.
    """
    for name, value in request.query_params.multi_items():
        _expect_storable(name, value)


def _expect_storable(field: str, value: object) -> None:
    if fault := first_fault(field, value):
        raise _failed(ValueNotStorable, fault.field, fault.message, fault.remedy)


def _failed(cls: type[NestorError], field: str, message: str, remedy: str) -> ValidationFailed:
    field = shortened(field.replace("\0", "\\0"), 200)
    return ValidationFailed(
        summary=f"{field}: {message}. {remedy}" if field else f"{message}. {remedy}",
        errors=[entry(cls, field, message, remedy)],
    )


def _in_body(error: ValidationError) -> list[dict[str, Any]]:
    return [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
