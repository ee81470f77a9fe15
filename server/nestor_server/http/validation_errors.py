"""Turns pydantic's errors into what the user should do: the field as they wrote it, and its allowed values."""

from __future__ import annotations

import difflib
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError

from nestor.errors import shortened, shown
from nestor.options.mistakes.annotations import Place, walk
from nestor.options.mistakes.sentences import ABSENT
from nestor.schemas import API


def explain(request: Request, error: RequestValidationError) -> list[dict[str, Any]]:
    """One entry per mistake: `field` (a path into the body, or a parameter's name), `message` and `remedy`."""
    details = error.errors()
    # pydantic also calls a list too short if its only item is wrong. Report the item alone.
    parents = {detail["loc"][:length] for detail in details for length in range(len(detail["loc"]))}
    return [_explain(request, one) for one in details if one["type"] != "too_short" or one["loc"] not in parents]


def _explain(request: Request, error: dict[str, Any]) -> dict[str, Any]:
    where, *path = error["loc"]
    kind, message = error["type"], error["msg"].removeprefix("Value error, ").rstrip(".")
    if kind == "json_invalid":
        detail = error.get("ctx", {}).get("error", "")
        return _entry("", f"The body is not JSON: {detail} (at character {path[0]})", "Send one JSON document.")
    place = walk(_body_model(request), path) if where == "body" else Place(path, [], [], None)
    field = ".".join(str(part) for part in place.path)
    if not place.path:
        return _entry(field, "The body is not a JSON object", "Send an object, with Content-Type: application/json.")
    if kind in ABSENT and place.moved:
        return _entry(field, "This field no longer exists", f"{place.moved[0].upper()}{place.moved[1:]}.")
    if kind in ABSENT:
        similar = difflib.get_close_matches(shortened(str(place.path[-1])), place.siblings, n=1)
        hint = f"Did you mean {similar[0]!r}? " if similar else ""
        listed = ", ".join(place.siblings)
        allowed = f"Allowed fields: {listed}." if listed else f"/openapi.json lists the fields of {API}."
        return _entry(field, "This field is unknown", f"{hint}{allowed}")
    if kind == "missing":
        return _entry(field, "This field is missing", "Add it.")
    return _entry(field, message, f"The value was {shown(error.get('input'))}.")


def _entry(field: str, message: str, remedy: str) -> dict[str, Any]:
    return {"field": shortened(field, 200), "message": message, "remedy": remedy}


def _body_model(request: Request) -> Any:
    body = getattr(request.scope.get("route"), "body_field", None)
    return body.field_info.annotation if body is not None else None
