"""Pages of lists: bounded in rows and bytes, with a cursor to the next page and a version that costs little.

A cursor is the key of a page's last row, so that an index finds the next page in a list of any length.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import ARRAY, ColumnElement, Select, Text, any_, case, cast, func, literal
from sqlalchemy.orm import InstrumentedAttribute, Session

from nestor.errors import CursorInvalid

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000
MAX_BYTES = 2**20  # of what is stored of a page's rows, so that memory does not follow their size

Key = TypeVar("Key")


@dataclass(frozen=True)
class Index:
    """Which rows a page has, without their contents.

    Attributes:
        keys: of its rows, in order.
        more: whether rows follow.
        version: changes with each row of the page, and with `more`.
    """

    keys: tuple[Any, ...]
    more: bool
    version: str

    def holds(self, key: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
        """Whether the page has a row with this key."""
        return key == any_(literal(list(self.keys), ARRAY(key.type)))

    @property
    def next_after(self) -> Any:
        """The key after which the next page begins; None: this is the last page."""
        return self.keys[-1] if self.more else None

    @property
    def next_cursor(self) -> str | None:
        """The cursor of the next page; None: this is the last page."""
        last = self.next_after
        return None if last is None else encode(last if isinstance(last, int) else str(last))


def index(session: Session, query: Select[*tuple[Any, ...]], limit: int) -> Index:
    """The page that `query` begins with: at most `limit` rows and `MAX_BYTES`, but at least one row.

    Args:
        query: in the order of the list, the key of each row, its `stored_bytes`, and what its version is made of.
    """
    rows = session.execute(query.limit(limit + 1)).all()
    ends = itertools.accumulate(row[1] for row in rows[:limit])
    n = sum(1 for row, end in zip(rows, ends, strict=False) if end - row[1] < MAX_BYTES)
    more = n < len(rows)
    shown = json.dumps([more, *(tuple(row) for row in rows[:n])], default=str)
    return Index(tuple(row[0] for row in rows[:n]), more, hashlib.sha256(shown.encode()).hexdigest())


def stored_bytes(*columns: InstrumentedAttribute[Any]) -> ColumnElement[int]:
    """The size of JSON columns, uncompressed. Only compressed values are read for it, which are the large ones."""
    sizes = (
        case(
            (func.pg_column_compression(column).is_(None), func.pg_column_size(column)),
            else_=func.octet_length(cast(column, Text)),
        )
        for column in columns
    )
    total: Any = sum(func.coalesce(size, 0) for size in sizes)
    return total.label("bytes")


def encode(key: str | int) -> str:
    """An opaque cursor for the page after the row with this key."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def decode(cursor: str, parse: Callable[[str], Key]) -> Key:
    """The key that `encode` was given, read by `parse`, such as `int` or `UUID`.

    Raises:
        InvalidInput: the cursor was made by another list, or by something else.
    """
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise ValueError(key)
        return parse(str(key))
    except (ValueError, TypeError, binascii.Error):
        raise CursorInvalid() from None
