"""What checks need to know of a route, found once."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from fastapi.routing import APIRoute

T = TypeVar("T")


def once_per_route(find: Callable[[APIRoute], T]) -> Callable[[APIRoute], T]:
    """`find` with a memory."""
    # By id, because a route has no hash. Each is kept, so that no other one gets its id.
    found: dict[int, tuple[APIRoute, T]] = {}

    @wraps(find)
    def remembered(route: APIRoute) -> T:
        if id(route) not in found:
            found[id(route)] = route, find(route)
        return found[id(route)][1]

    return remembered
