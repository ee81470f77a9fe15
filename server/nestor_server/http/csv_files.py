"""CSV files, written while they are read: nothing of their size is held."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from nestor.results.tables import Table
from nestor_server.http.files import attachment
from nestor_server.http.transactions import Transactions

T = TypeVar("T")
Read = Callable[[Session, Any], tuple[Sequence[T], Any]]  # the entries after a key, and the key to go on after

CSV = "text/csv"


def csv_response(request: Request, table: Table[T], read: Read[T], *, name: str) -> StreamingResponse:
    """The entries that `read` reads, as rows of `table`.

    Each piece is read in a transaction of its own, and twice: first for the columns. What is recorded meanwhile has a
    row, and no column that was not there before.

    Args:
        name: the file name that browsers save it under.
    """
    headers = {"Cache-Control": "private, no-store", **attachment(name)}
    return StreamingResponse(_pieces(request, table, read), headers=headers, media_type=CSV)


async def _pieces(request: Request, table: Table[T], read: Read[T]) -> AsyncIterator[bytes]:
    transactions: Transactions = request.app.state.transactions

    def find_columns(after: Any, session: Session) -> tuple[str, Any]:
        items, after = read(session, after)
        for item in items:
            table.add(item)
        return "", after

    def write(after: Any, session: Session) -> tuple[str, Any]:
        items, after = read(session, after)
        return table.csv(items), after

    async for _ in _read(transactions, request, find_columns):
        pass
    yield table.csv().encode()
    async for text in _read(transactions, request, write):
        yield text.encode()


async def _read(
    transactions: Transactions, request: Request, work: Callable[[Any, Session], tuple[str, Any]]
) -> AsyncIterator[str]:
    """What `work` makes of each piece, in a transaction of its own."""
    after: Any = None
    while True:
        text, after = await transactions.run(partial(work, after), request=request)
        yield text
        if after is None:
            return
