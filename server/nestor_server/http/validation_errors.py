"""Turns what pydantic found wrong into what the user should do: the field as they wrote it, and what it may hold."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from nestor.schemas import API

SHOWN = 80  # characters of a wrong value


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
        path, fields = _walk(_body_model(request), path)
    field = ".".join(str(part) for part in path)
    if not path:
        return _entry(field, "The body is not a JSON object", "Send one, with Content-Type: application/json.")
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(path[-1]), fields, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        listed = ", ".join(fields) or f"see /openapi.json and {API}"
        return _entry(field, "There is no such field", f"{hint}Possible here: {listed}.")
    if kind == "missing":
        return _entry(field, "This field is missing", "Add it.")
    shown = repr(error.get("input"))
    shown = shown if len(shown) <= SHOWN else shown[: SHOWN - 1] + "…"
    return _entry(field, message, f"It was {shown}.")


def _entry(field: str, message: str, remedy: str) -> dict[str, Any]:
    return {"field": field, "message": message, "remedy": remedy}


def _body_model(request: Request) -> Any:
    body = getattr(request.scope.get("route"), "body_field", None)
    return body.field_info.annotation if body is not None else None


def _walk(annotation: Any, loc: list[Any]) -> tuple[list[Any], list[str]]:
    """The location without the names of alternatives, which no user wrote, and the fields that its last part could be.

    pydantic names the alternative of a union inside the location: ("inner", "adam", "lr") for `inner.lr`.
    """
    here, path, siblings = [annotation], [], []
    for part in loc:
        models = [model for one in here for model in _models(one)]
        named = [model for model in models if part == model.__name__ or part in _tags(model)]
        known = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        if isinstance(part, str) and not known and named:
            here = named
            continue
        path.append(part)
        siblings = sorted({name for model in models for name in model.model_fields})
        here = known if isinstance(part, str) else [item for one in here for item in get_args(one)]
    return path, siblings


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a value of this annotation may be."""
    origin = get_origin(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif origin is Annotated:
        yield from _models(get_args(annotation)[0])
    elif origin in (Union, types.UnionType, tuple, list):
        for one in get_args(annotation):
            yield from _models(one)


def _tags(model: type[BaseModel]) -> set[Any]:
    """The words by which a model is chosen: those of its literal fields."""
    return {
        word
        for field in model.model_fields.values()
        if get_origin(field.annotation) is Literal
        for word in get_args(field.annotation)
    }
