"""The base of all parts of a client: its address, its connections, and requests for documents and lists.

Written by `python -m nestor.remote.asynchronous` from nestor.remote.connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

from pydantic import BaseModel

from nestor.errors import OptionOutOfRange, OptionTypeWrong, called_as, shown
from nestor.remote import credentials
from nestor.remote.asynchronous.transport import AsyncTransport
from nestor.remote.connection import MAX_TIMEOUT, Item, Page
from nestor.remote.transport import Model, read


class AsyncConnection:
    """The connections of one user to one server; `Client` says what the arguments mean."""

    @called_as("AsyncClient", url="Pass server=….", address="Pass server=…, the address.", api_key="Pass token=….")
    def __init__(self, server: str | None = None, token: str | None = None, *, timeout: float = 30.0) -> None:
        self.server = credentials.find_server(server)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float):  # pyright: ignore[reportUnnecessaryIsInstance] of a user
            raise OptionTypeWrong(option=f"timeout={shown(timeout)}", rule="it must be a number of seconds, above 0")
        if not 0 < timeout < MAX_TIMEOUT:
            raise OptionOutOfRange(option=f"{timeout=}", rule=f"it must be above 0 and below {MAX_TIMEOUT} seconds")
        self._timeout = timeout
        token = credentials.find_token(server, token)
        self._token_name = credentials.fingerprint(token)
        self._connected: AsyncTransport | None = AsyncTransport(self.server, token, timeout)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_connected": None}

    @property
    def _transport(self) -> AsyncTransport:
        """The connections, made at the first use after unpickling: an error there would not reach the user."""
        if self._connected is None:
            self._connected = AsyncTransport(
                self.server, credentials.recall(self.server, self._token_name), self._timeout
            )
        return self._connected

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. `async with AsyncClient() as client:` does this at the end of the block."""
        if self._connected is not None:
            await self._connected.close()

    async def _get(self, path: str, model: type[Model], **params: Any) -> Model:
        return read(model, await self._transport.request("GET", path, params=params))

    async def _post(self, path: str, body: BaseModel | None, model: type[Model]) -> Model:
        if body is not None and not isinstance(body, BaseModel):  # pyright: ignore[reportUnnecessaryIsInstance] of a user
            raise OptionTypeWrong(option=shown(body), rule="pass a value of nestor.schemas")
        document = None if body is None else body.model_dump(mode="json")
        return read(model, await self._transport.request("POST", path, json=document))

    async def _patch(self, path: str, patch: BaseModel, model: type[Model]) -> Model:
        if not isinstance(patch, BaseModel):  # pyright: ignore[reportUnnecessaryIsInstance] of a user
            raise OptionTypeWrong(option=shown(patch), rule="pass a value of nestor.schemas")
        document = patch.model_dump(mode="json", exclude_unset=True)
        return read(model, await self._transport.request("PATCH", path, json=document))

    @staticmethod
    async def _pages(
        get: Callable[[dict[str, str]], Awaitable[Page[Item]]], *, empty: bool = False
    ) -> AsyncIterator[Item]:
        """The items of all pages.

        Args:
            get: takes the query parameters that select a page.
            empty: no item can match, so that nothing needs to be requested.
        """
        if empty:
            return
        page = await get({})
        for item in page.items:
            yield item
        while page.next_cursor is not None:
            page = await get({"cursor": page.next_cursor})
            for item in page.items:
                yield item
