"""Refuses what Python's JSON takes and Postgres or other readers do not: NaN, NUL, lone surrogates, endless nesting."""

from __future__ import annotations

import math
from typing import Any

from fastapi import Request

from nestor.errors import ValidationFailed, shortened

DEEPEST = 64  # levels; what is deeper cannot be written out again


async def storable(request: Request) -> None:
    """
    Raises:
        ValidationFailed: naming the place.
    """
    for name, value in request.query_params.multi_items():
        _look(name, value)
    if request.headers.get("Content-Type", "").startswith("application/json") and await request.body():
        _look("", await request.json())


def _look(place: str, value: Any) -> None:
    left = [(place, value, 0)]
    while left:
        place, value, depth = left.pop()
        match value:
            case float() if not math.isfinite(value):
                _refuse(place, "The number is not finite", "Send a finite number, or leave it out.")
            case int() if abs(value) >= 2**63 and not isinstance(value, bool):
                _refuse(place, "The number is too large", "Integers go up to 2**63; send others as text.")
            case str():
                _look_at_text(place, value)
            case dict() | list() if depth == DEEPEST:
                _refuse(place[:200], f"This is nested deeper than {DEEPEST} levels", "Make it flatter.")
            case dict():
                for key, inner in value.items():
                    _look_at_text(place, key)
                    left.append((f"{place}.{key}" if place else key, inner, depth + 1))
            case list():
                left.extend((f"{place}.{index}", inner, depth + 1) for index, inner in enumerate(value))


def _look_at_text(place: str, text: str) -> None:
    if "\0" in text or not (text.isascii() or _encodes(text)):
        _refuse(place, "The text holds a character that cannot be stored", "Remove NUL characters and lone surrogates.")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse(field: str, message: str, remedy: str) -> None:
    field = shortened(field.replace("\0", "\\0"), 200)
    error = {"field": field, "message": message, "remedy": remedy}
    raise ValidationFailed(summary=f"{field}: {message}. {remedy}", errors=[error])
