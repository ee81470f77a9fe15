"""Refuses texts that are no numbers or flags in JSON, such as `+1`, `1_000` or `yes`, although pydantic reads them.

Parameters are texts. Without this check, more of them would be accepted than /openapi.json describes.
"""

from __future__ import annotations

import re
from typing import Any, get_args

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Header, Path, Query
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

from nestor.errors import OptionTypeWrong, ValidationFailed, shown
from nestor_server.http.checks.route_cache import once_per_route
from nestor_server.http.checks.validation_errors import entry

FORMS: dict[type, tuple[re.Pattern[str], str]] = {  # of a type: its texts in JSON, and what it is called
    bool: (re.compile("true|false"), "true or false"),
    int: (re.compile(r"-?(0|[1-9][0-9]*)"), "a whole number, in digits alone"),
    float: (re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?"), "a number, as JSON has it"),
}
_READ = {kind: TypeAdapter(kind) for kind in FORMS}


async def require_texts_of_json(request: Request) -> None:
    """Check the texts of a request's parameters that are numbers or flags.

    Raises:
        ValidationFailed: one entry for each text that has another form.
    """
    errors: list[dict[str, Any]] = []
    for field, kind in _scalars(request.scope["route"]):
        form, called = FORMS[kind]
        errors += (
            entry(OptionTypeWrong, field.alias, f"It must be {called}", f"The value was {shown(text)}.")
            for text in _given(request, field)
            if not form.fullmatch(text) and _is_read(kind, text)
        )
    if errors:
        summary = f"{errors[0]['field']}: {errors[0]['message']}. {errors[0]['remedy']}"
        raise ValidationFailed(summary=summary, errors=errors)


@once_per_route
def _scalars(route: APIRoute) -> list[tuple[Any, type]]:
    """The parameters that are numbers or flags, with their types."""
    fields = get_flat_params(route.dependant)
    return [(field, kind) for field in fields for kind in FORMS if kind in _types(field.field_info.annotation)]


def _given(request: Request, field: Any) -> list[str]:
    if isinstance(field.field_info, Query):
        return request.query_params.getlist(field.alias)
    if isinstance(field.field_info, Header):
        return request.headers.getlist(field.alias)
    if isinstance(field.field_info, Path):
        return [request.path_params[field.alias]]
    return []


def _types(annotation: Any) -> set[Any]:
    """The types that an annotation names."""
    return {annotation}.union(*map(_types, get_args(annotation))) if get_args(annotation) else {annotation}


def _is_read(kind: type, text: str) -> bool:
    """Whether pydantic takes it. Its own error is the right one for others, or they are one of several words."""
    try:
        _READ[kind].validate_python(text)
    except ValidationError:
        return False
    return True
