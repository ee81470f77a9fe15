"""`AsyncClient` behind the methods of `Client`, so that one suite tests both.

Event loops run in threads of their own: once a test has used a browser, Playwright's loop runs in the main thread.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from nestor import AsyncClient

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """What the coroutine returns, as `asyncio.run` has it."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


class Awaited:
    """Each call runs the event loop until its result is there; an iterator runs it for each item."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._loop, self._thread = asyncio.Runner(), ThreadPoolExecutor(1)
        self._client = AsyncClient(*args, **options)

    def __enter__(self) -> Awaited:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
        self._thread.submit(self._loop.close).result()
        self._thread.shutdown()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return self._called(found) if inspect.ismethod(found) else found

    def _called(self, method: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            result = method(*args, **options)
            if isinstance(result, AsyncIterator):
                return self._iterate(result)
            return self._run(_wait(result)) if inspect.isawaitable(result) else result

        return call

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._thread.submit(self._loop.run, coroutine).result()

    def _iterate(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        end = object()
        while (item := self._run(_wait(anext(items, end)))) is not end:
            yield item


async def _wait(result: Awaitable[Any]) -> Any:
    return await result
