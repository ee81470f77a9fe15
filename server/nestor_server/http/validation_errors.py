"""Turns what pydantic found wrong into what the user should do: the field as they wrote it, and what it may hold."""

from __future__ import annotations

import difflib
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError

from nestor.errors import shortened, shown
from nestor.schemas import API
from nestor.schemas.validation import walk


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
    fields: list[str] = []
    if where == "body":
        path, fields, _ = walk(_body_model(request), path)
    field = ".".join(str(part) for part in path)
    if not path:
        return _entry(field, "The body is not a JSON object", "Send one, with Content-Type: application/json.")
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(shortened(str(path[-1])), fields, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        listed = ", ".join(fields) or f"see /openapi.json and {API}"
        return _entry(field, "There is no such field", f"{hint}Possible here: {listed}.")
    if kind == "missing":
        return _entry(field, "This field is missing", "Add it.")
    return _entry(field, message, f"It was {shown(error.get('input'))}.")


def _entry(field: str, message: str, remedy: str) -> dict[str, Any]:
    return {"field": shortened(field, 200), "message": message, "remedy": remedy}


def _body_model(request: Request) -> Any:
    body = getattr(request.scope.get("route"), "body_field", None)
    return body.field_info.annotation if body is not None else None
