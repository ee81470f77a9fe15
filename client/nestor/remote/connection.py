"""The base of all parts of a client: its address, its connections, and requests for documents and lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, Self, TypeVar

from pydantic import BaseModel

from nestor.errors import OptionOutOfRange, OptionTypeWrong, called_as, shown
from nestor.remote import credentials
from nestor.remote.transport import Model, Transport, read

Item = TypeVar("Item", covariant=True)

MAX_TIMEOUT = 86_400


class Page(Protocol[Item]):
    """One page of a list."""

    @property
    def items(self) -> Iterable[Item]:
        """The entries, in the order of the list."""
        ...

    @property
    def next_cursor(self) -> str | None:
        """What selects the next page; None: there is no other page."""
        ...


class Connection:
    """The connections of one user to one server; `Client` says what the arguments mean."""

    @called_as("Client", url="Pass server=….", address="Pass server=…, the address.", api_key="Pass token=….")
    def __init__(self, server: str | None = None, token: str | None = None, *, timeout: float = 30.0) -> None:
        self.server = credentials.find_server(server)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float):  # pyright: ignore[reportUnnecessaryIsInstance] of a user
            raise OptionTypeWrong(option=f"timeout={shown(timeout)}", rule="it must be a number of seconds, above 0")
        if not 0 < timeout < MAX_TIMEOUT:
            raise OptionOutOfRange(option=f"{timeout=}", rule=f"it must be above 0 and below {MAX_TIMEOUT} seconds")
        self._timeout = timeout
        token = credentials.find_token(server, token)
        self._token_name = credentials.fingerprint(token)
        self._connected: Transport | None = Transport(self.server, token, timeout)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_connected": None}

    @property
    def _transport(self) -> Transport:
        """The connections, made at the first use after unpickling: an error there would not reach the user."""
        if self._connected is None:
            self._connected = Transport(self.server, credentials.recall(self.server, self._token_name), self._timeout)
        return self._connected

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. `with Client() as client:` does this at the end of the block."""
        if self._connected is not None:
            self._connected.close()

    def _get(self, path: str, model: type[Model], **params: Any) -> Model:
        return read(model, self._transport.request("GET", path, params=params))

    def _post(self, path: str, body: BaseModel | None, model: type[Model]) -> Model:
        if body is not None and not isinstance(body, BaseModel):  # pyright: ignore[reportUnnecessaryIsInstance] of a user
            raise OptionTypeWrong(option=shown(body), rule="pass a value of nestor.schemas")
        document = None if body is None else body.model_dump(mode="json")
        return read(model, self._transport.request("POST", path, json=document))

    def _patch(self, path: str, patch: BaseModel, model: type[Model]) -> Model:
        if not isinstance(patch, BaseModel):  # pyright: ignore[reportUnnecessaryIsInstance] of a user
            raise OptionTypeWrong(option=shown(patch), rule="pass a value of nestor.schemas")
        document = patch.model_dump(mode="json", exclude_unset=True)
        return read(model, self._transport.request("PATCH", path, json=document))

    @staticmethod
    def _pages(get: Callable[[dict[str, str]], Page[Item]], *, empty: bool = False) -> Iterator[Item]:
        """The items of all pages.

        Args:
            get: takes the query parameters that select a page.
            empty: no item can match, so that nothing needs to be requested.
        """
        if empty:
            return
        page = get({})
        yield from page.items
        while page.next_cursor is not None:
            page = get({"cursor": page.next_cursor})
            yield from page.items
