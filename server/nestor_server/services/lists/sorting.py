"""Sorted lists: in each order, a cursor leads to the next page.

A cursor names the last row of a page by what the list is sorted by, so that an index finds the next page in a list of
any length. A row that is added, or that moves because what it is sorted by changes, does not move the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from pydantic import ConfigDict, TypeAdapter
from sqlalchemy import ColumnElement, Select, literal, select, true, tuple_, union_all
from sqlalchemy.orm import InstrumentedAttribute, Session

from nestor.errors import CursorInvalid
from nestor_server.services.lists import cursors
from nestor_server.services.lists.paging import AnyRow, Index, bounded


@dataclass(frozen=True)
class Sort:
    """What a list can be sorted by.

    Attributes:
        value: of each row; rows without one come last, whichever way the list is sorted.
        kind: its type in Python: int, float, str, datetime or UUID.
        nullable: whether rows may have none.
        parts: conditions of which each row meets one, each with the column that an index has for the value of its rows;
            none: `value` is in an index itself.
        computed: no index has it, so that it is computed for each row of the list, and once.
    """

    value: ColumnElement[Any] | InstrumentedAttribute[Any]
    kind: type[int | float | str | datetime | UUID]
    nullable: bool = False
    parts: tuple[tuple[ColumnElement[bool] | InstrumentedAttribute[bool], InstrumentedAttribute[Any]], ...] = ()
    computed: bool = False


@dataclass(frozen=True)
class Order:
    """A list in one of its orders.

    Attributes:
        of: names the list, in its cursors.
        by: names what it is sorted by.
        sort: the same.
        key: the unique key of its rows. Of rows with equal values, it decides.
        descending: which way.
    """

    of: str
    by: str
    sort: Sort
    key: InstrumentedAttribute[Any]
    descending: bool

    def index(self, session: Session, query: Select[*tuple[Any, ...]], limit: int, cursor: str | None) -> Index:
        """The page behind `cursor`, or the first one; as `paging.index`.

        Args:
            query: in any order, the key of each row, its `stored_bytes`, and what its version is made of.

        Raises:
            CursorInvalid: the cursor was made by another list, or for another order.
        """
        after = None if cursor is None else self._decode(cursor)
        rows: list[AnyRow] = []
        for has_value in (True, False) if self.sort.nullable else (True,):
            if has_value and after is not None and after[0] is None:
                continue  # the rows with a value are on earlier pages
            if len(rows) <= limit:
                begins = after if after is not None and (after[0] is not None) == has_value else None
                statement = self._statement(query, begins, limit + 1 - len(rows), has_value=has_value)
                rows += session.execute(statement).all()
        page = bounded(rows, limit)
        if not page.more:
            return page
        last = rows[len(page.keys) - 1]
        return replace(page, next_cursor=self._encode(last.sorted_by, last[0]))

    def _statement(
        self, query: Select[*tuple[Any, ...]], after: tuple[Any, Any] | None, limit: int, *, has_value: bool
    ) -> Select[*tuple[Any, ...]]:
        """The first rows after a value and a key, of those that have a value or of the others."""
        if self.sort.computed:
            return self._computed(query, after, limit, has_value=has_value)
        parts = self.sort.parts or ((true(), self.sort.value),)
        found: list[Select[*tuple[Any, ...]]] = []
        for where, value in parts:
            rows = query.where(where).add_columns(value.label("sorted_by"))
            found.append(self._first(rows, value, self.key, after, limit, has_value=has_value))
        if len(found) == 1:
            return found[0]
        merged = union_all(*(select(part.subquery()) for part in found)).subquery()
        return select(merged).order_by(*self._directed(merged.c.sorted_by, merged.c[self.key.key])).limit(limit)

    def _computed(
        self, query: Select[*tuple[Any, ...]], after: tuple[Any, Any] | None, limit: int, *, has_value: bool
    ) -> Select[*tuple[Any, ...]]:
        """The same, if all rows must be read for their values. Their other columns are read of the first rows alone."""
        # OFFSET 0 keeps PostgreSQL from computing a value in each condition again, and from joining before the limit.
        each = query.with_only_columns(self.key, self.sort.value.label("sorted_by")).offset(0).subquery()
        each_key = cast("ColumnElement[Any]", each.c[self.key.key])
        found = self._first(select(each), each.c.sorted_by, each_key, after, limit, has_value=has_value).subquery()
        key, value = cast("ColumnElement[Any]", found.c[self.key.key]), found.c.sorted_by
        row = select(*query.selected_columns).where(self.key == key).offset(0).lateral()
        return select(row, value).join_from(found, row, true()).order_by(*self._directed(value, key))

    def _first(
        self,
        rows: Select[*tuple[Any, ...]],
        value: ColumnElement[Any] | InstrumentedAttribute[Any],
        key: ColumnElement[Any] | InstrumentedAttribute[Any],
        after: tuple[Any, Any] | None,
        limit: int,
        *,
        has_value: bool,
    ) -> Select[*tuple[Any, ...]]:
        if self.sort.nullable:
            rows = rows.where(value.is_not(None) if has_value else value.is_(None))
        if after is not None:
            rows = rows.where(self._is_after(value if has_value else key, key, after))
        # Also those without a value are sorted by it, as in the index.
        return rows.order_by(*self._directed(value, key)).limit(limit)

    def _is_after(self, value: Any, key: Any, after: tuple[Any, Any]) -> ColumnElement[bool]:
        one, other = key, literal(after[1], self.key.type)
        if value is not key:
            one, other = tuple_(value, key), tuple_(literal(after[0], value.type), other)
        return one < other if self.descending else one > other

    def _directed(self, *columns: Any) -> list[ColumnElement[Any]]:
        return [column.desc() if self.descending else column.asc() for column in columns]

    # --- cursors ----------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"{self.of} {self.by} {'desc' if self.descending else 'asc'}"

    @property
    def _written(self) -> TypeAdapter[tuple[str, Any, Any]]:
        kinds: Any = tuple[str, self.sort.kind | None, self.key.type.python_type]
        return TypeAdapter(kinds, config=ConfigDict(strict=True))

    def _encode(self, value: Any, key: Any) -> str:
        """An opaque cursor for the page after this row."""
        return cursors.encode(self._written, (self._name, value, key))

    def _decode(self, cursor: str) -> tuple[Any, Any]:
        """The value and the key that `_encode` was given."""
        name, value, key = cursors.decode(self._written, cursor)
        if name != self._name or (value is None and not self.sort.nullable):
            raise CursorInvalid()
        return value, key
