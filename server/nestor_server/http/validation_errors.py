"""Turns what pydantic found wrong into what the user should do: the field as they wrote it, and what it may hold."""

from __future__ import annotations

import difflib
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError

from nestor.options.sentences import ABSENT, Place, shown, walk
from nestor.schemas import API


def explain(request: Request, error: RequestValidationError) -> list[dict[str, Any]]:
    """One entry a mistake: `field` (a path into the body, or a parameter's name), `message`, `remedy`."""
    found = error.errors()
    # A list whose only item is wrong is also called too short: the item is the mistake.
    deeper = {one["loc"][:length] for one in found for length in range(len(one["loc"]))}
    return [_explain(request, one) for one in found if one["type"] != "too_short" or one["loc"] not in deeper]


def _explain(request: Request, error: dict[str, Any]) -> dict[str, Any]:
    where, *path = error["loc"]
    kind, message = error["type"], error["msg"].removeprefix("Value error, ").rstrip(".")
    if kind == "json_invalid":
        detail = error.get("ctx", {}).get("error", "")
        return _entry("", f"The body is not JSON: {detail} (at character {path[0]})", "Send one JSON document.")
    place = walk(_body_model(request), path) if where == "body" else Place(path, [], [], None)
    field = ".".join(str(part) for part in place.path)
    if not place.path:
        return _entry(field, "The body is not a JSON object", "Send one, with Content-Type: application/json.")
    if kind in ABSENT and place.moved:
        return _entry(field, "There is no such field any more", f"{place.moved[0].upper()}{place.moved[1:]}.")
    if kind in ABSENT:
        near = difflib.get_close_matches(str(place.path[-1]), place.siblings, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        listed = ", ".join(place.siblings) or f"see /openapi.json and {API}"
        return _entry(field, "There is no such field", f"{hint}Possible here: {listed}.")
    if kind == "missing":
        return _entry(field, "This field is missing", "Add it.")
    return _entry(field, message, f"It was {shown(error.get('input'))}.")


def _entry(field: str, message: str, remedy: str) -> dict[str, Any]:
    return {"field": field, "message": message, "remedy": remedy}


def _body_model(request: Request) -> Any:
    body = getattr(request.scope.get("route"), "body_field", None)
    return body.field_info.annotation if body is not None else None
