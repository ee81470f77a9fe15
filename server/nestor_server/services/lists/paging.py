"""Pages of lists: bounded in rows and bytes, with a version that costs little."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import ARRAY, ColumnElement, Row, Select, Text, any_, case, cast, func, literal
from sqlalchemy.orm import InstrumentedAttribute, Session

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000
MAX_BYTES = 2**20  # of what is stored of a page's rows, so that memory does not follow their size

AnyRow = Row[*tuple[Any, ...]]
Table = TypeVar("Table")


@dataclass(frozen=True)
class Index:
    """Which rows a page has, without their contents.

    Attributes:
        keys: of its rows, in order.
        more: whether rows follow.
        version: changes with each row of the page, and with `more`.
        next_cursor: the cursor of the next page of a sorted list; None: this is the last page.
    """

    keys: tuple[Any, ...]
    more: bool
    version: str
    next_cursor: str | None = None

    def holds(self, key: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
        """Whether the page has a row with this key."""
        return key == any_(literal(list(self.keys), ARRAY(key.type)))

    def arrange(self, rows: Iterable[Table], key: InstrumentedAttribute[Any]) -> list[Table]:
        """The rows of the page in its order. Those that were deleted meanwhile are left out."""
        found = {getattr(row, key.key): row for row in rows}
        return [found[one] for one in self.keys if one in found]

    @property
    def next_after(self) -> Any:
        """The key after which the next page begins; None: this is the last page."""
        return self.keys[-1] if self.more else None


def index(session: Session, query: Select[*tuple[Any, ...]], limit: int) -> Index:
    """The page that `query` begins with: at most `limit` rows and `MAX_BYTES`, but at least one row.

    Args:
        query: in the order of the list, the key of each row, its `stored_bytes`, and what its version is made of.
    """
    return bounded(session.execute(query.limit(limit + 1)).all(), limit)


def bounded(rows: Sequence[AnyRow], limit: int) -> Index:
    """The page that `rows` begin with, as `index`; of more than `limit` rows, one shows that others follow."""
    ends = itertools.accumulate(row[1] for row in rows[:limit])
    n = sum(1 for row, end in zip(rows, ends, strict=False) if end - row[1] < MAX_BYTES)
    more = n < len(rows)
    shown = json.dumps([more, *(tuple(row) for row in rows[:n])], default=str)
    return Index(tuple(row[0] for row in rows[:n]), more, hashlib.sha256(shown.encode()).hexdigest())


def stored_bytes(*columns: InstrumentedAttribute[Any]) -> ColumnElement[int]:
    """The size of JSON and text columns, uncompressed. Only compressed values are read for it, the large ones."""
    sizes = (
        case(
            (func.pg_column_compression(column).is_(None), func.pg_column_size(column)),
            else_=func.octet_length(cast(column, Text)),
        )
        for column in columns
    )
    total: Any = sum(func.coalesce(size, 0) for size in sizes)
    return total.label("bytes")
