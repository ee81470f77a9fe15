"""Refuses query parameters that a route does not have: a misspelled filter would otherwise filter nothing."""

from __future__ import annotations

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute

from nestor.errors import OptionUnknown, ValidationFailed, shortened
from nestor.errors.base import ITEMS
from nestor_server.http.checks.route_cache import once_per_route
from nestor_server.http.checks.validation_errors import did_you_mean, entry


async def require_known_parameters(request: Request) -> None:
    """Check the names of the query parameters of a request.

    Raises:
        ValidationFailed: one entry for each unknown parameter, with those that the route has.
    """
    if not request.query_params:
        return
    known = _known(request.scope["route"])
    if unknown := [name for name in dict.fromkeys(request.query_params) if name not in known]:
        listed = f"The parameters are {', '.join(known)}." if known else "This path has no query parameters."
        errors = [
            entry(OptionUnknown, name, "This query parameter is unknown", f"{did_you_mean(name, known)}{listed}")
            for name in unknown[:ITEMS]
        ]
        summary = f"{shortened(unknown[0], 200)}: {errors[0]['message']}. {errors[0]['remedy']}"
        raise ValidationFailed(summary=summary, errors=errors)


@once_per_route
def _known(route: APIRoute) -> list[str]:
    """The names that a route takes."""
    return [field.alias for field in get_flat_params(route.dependant) if isinstance(field.field_info, Query)]
