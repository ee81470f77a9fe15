"""`AsyncClient` behind the methods of `Client`, so that one suite tests both."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

from nestor import AsyncClient


class Awaited:
    """Each call runs the event loop until its result is there; an iterator runs it for each item."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._loop = asyncio.Runner()
        self._client = AsyncClient(*args, **options)

    def __enter__(self) -> Awaited:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
        self._loop.close()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return self._called(found) if inspect.ismethod(found) else found

    def _called(self, method: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            result = method(*args, **options)
            if isinstance(result, AsyncIterator):
                return self._iterate(result)
            return self._loop.run(_wait(result)) if inspect.isawaitable(result) else result

        return call

    def _iterate(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        end = object()
        while (item := self._loop.run(_wait(anext(items, end)))) is not end:
            yield item


async def _wait(result: Awaitable[Any]) -> Any:
    return await result
