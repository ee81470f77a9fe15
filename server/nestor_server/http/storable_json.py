"""Refuses JSON that Python reads but PostgreSQL or other readers do not: NaN, NUL, lone surrogates, deep nesting."""

from __future__ import annotations

import math

from fastapi import Request

from nestor.errors import ValidationFailed, ValueNotStorable, shortened
from nestor.schemas.base import Json
from nestor_server.http.validation_errors import entry

MAX_DEPTH = 64  # levels; Python cannot serialize much deeper documents


async def require_storable_json(request: Request) -> None:
    """Check the query parameters and the JSON body of a request.

    Raises:
        ValidationFailed: the field that cannot be stored, and why.
    """
    for name, value in request.query_params.multi_items():
        _check(name, value)
    if request.headers.get("Content-Type", "").startswith("application/json") and await request.body():
        _check("", await request.json())


def _check(field: str, value: Json) -> None:
    pending: list[tuple[str, Json, int]] = [(field, value, 0)]
    while pending:
        field, value, depth = pending.pop()
        match value:
            case float() if not math.isfinite(value):
                _refuse(field, "The number is not finite", "Send a finite number, or omit the field.")
            case int() if abs(value) >= 2**63 and not isinstance(value, bool):
                _refuse(field, "The number is too large", "Integers must be below 2**63; send larger ones as text.")
            case str():
                _check_text(field, value)
            case dict() | list() if depth == MAX_DEPTH:
                _refuse(field[:200], f"This is nested deeper than {MAX_DEPTH} levels", "Flatten the document.")
            case dict():
                for key, item in value.items():
                    _check_text(field, key)
                    pending.append((f"{field}.{key}" if field else key, item, depth + 1))
            case list():
                pending.extend((f"{field}.{index}", item, depth + 1) for index, item in enumerate(value))
            case _:
                pass


def _check_text(field: str, text: str) -> None:
    if "\0" in text or not (text.isascii() or _is_utf8(text)):
        _refuse(
            field, "The text contains a character that cannot be stored", "Remove NUL characters and lone surrogates."
        )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse(field: str, message: str, remedy: str) -> None:
    field = shortened(field.replace("\0", "\\0"), 200)
    error = entry(ValueNotStorable, field, message, remedy)
    raise ValidationFailed(summary=f"{field}: {message}. {remedy}", errors=[error])
