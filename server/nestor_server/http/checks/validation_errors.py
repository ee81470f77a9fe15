"""Turns pydantic's errors into what the user should do: the field as they wrote it, and its allowed values."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from nestor.errors import (
    BodyUnreadable,
    NestorError,
    OptionMissing,
    OptionTypeWrong,
    OptionUnknown,
    ValidationFailed,
    shortened,
    shown,
)
from nestor.errors.base import ITEMS
from nestor.options.mistakes.annotations import Place, walk
from nestor.options.mistakes.sentences import ABSENT, class_of, expected, relevant
from nestor.schemas import API


def as_failure(errors: Sequence[dict[str, Any]], model: Any) -> ValidationFailed:
    """pydantic's errors about a request as one error. `errors` of it has an entry for each of the first mistakes.

    An entry has a `field` (a path into the body, or a parameter's name), `code`, `message` and `remedy`.

    Args:
        model: what the body was to become.
    """
    mistakes = relevant(errors)
    explained = [_explain(one, model) for one in mistakes[:ITEMS]]
    by_field: dict[str, dict[str, Any]] = {}
    for one in explained:
        by_field.setdefault(one["field"], one)  # a union reports each alternative
    entries = [*by_field.values()]
    first, n_more = entries[0], len(entries) - 1 + len(mistakes) - len(explained)
    summary = f"{first['field']}: {first['message']}" if first["field"] else first["message"]
    summary = f"{summary}. {first['remedy']}" + (f" (And {n_more:,} more.)" if n_more else "")
    return ValidationFailed(summary=summary, errors=entries)


def _explain(error: dict[str, Any], model: Any) -> dict[str, Any]:
    where, *path = error["loc"]
    kind = error["type"]
    if kind == "json_invalid":
        detail = error.get("ctx", {}).get("error", "")
        message = f"The body is not JSON: {detail} (at character {path[0]})"
        return entry(BodyUnreadable, "", message, "Send one JSON document.")
    place = walk(model, path) if where == "body" else Place(path, [], [], None)
    field = ".".join(str(part) for part in place.path)
    if not place.path:
        remedy = "Send an object, with Content-Type: application/json."
        return entry(OptionTypeWrong, field, "The body is not a JSON object", remedy)
    if kind in ABSENT and place.moved:
        return entry(OptionUnknown, field, "This field no longer exists", f"{_capitalized(place.moved)}.")
    if kind in ABSENT:
        listed = ", ".join(place.siblings)
        allowed = f"Allowed fields: {listed}." if listed else f"/openapi.json lists the fields of {API}."
        return entry(
            OptionUnknown, field, "This field is unknown", f"{did_you_mean(place.path[-1], place.siblings)}{allowed}"
        )
    if kind == "missing":
        return entry(OptionMissing, field, "This field is missing", "Add it.")
    message = expected(error, place.annotations)
    if message.startswith("it "):
        message = _capitalized(message)
    return entry(class_of(kind), field, message, f"The value was {shown(error.get('input'))}.")


def entry(cls: type[NestorError], field: str, message: str, remedy: str) -> dict[str, Any]:
    """One of the `errors` of a ValidationFailed. Its code is that of `cls`, which Python raises for the mistake."""
    return {"field": shortened(field, 200), "code": cls.code(), "message": message, "remedy": remedy}


def did_you_mean(name: object, known: Sequence[str]) -> str:
    """A question that begins a remedy, if one of the known names is similar to a wrong one; else nothing."""
    similar = difflib.get_close_matches(shortened(str(name)), known, n=1)
    return f"Did you mean {similar[0]!r}? " if similar else ""


def _capitalized(sentence: str) -> str:
    return f"{sentence[0].upper()}{sentence[1:]}"
