"""A value that takes time to find, asked for by anybody as often as they like."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar, final

T = TypeVar("T")


@final
class Refreshed(Generic[T]):
    """What `read` returns. It is called in a thread, one call at a time, and only if its last value is too old.

    Args:
        valid_seconds: how old a value may be.
    """

    def __init__(self, read: Callable[[], T], *, valid_seconds: float = 1.0) -> None:
        self._read, self._valid_seconds = read, valid_seconds
        self._one_at_a_time = asyncio.Lock()
        self._found: tuple[T, float] | None = None  # and when

    async def get(self) -> T:
        """The value."""
        async with self._one_at_a_time:
            if self._found is None or monotonic() - self._found[1] > self._valid_seconds:
                self._found = await asyncio.to_thread(self._read), monotonic()
            return self._found[0]
