"""What lists are filtered by besides states: a text, and tags."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import ColumnElement, func, literal, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

UNICODE_CASE = 17  # from this version on, PostgreSQL knows the case of all letters under any locale


def contains(
    session: Session, text: str, *columns: InstrumentedAttribute[str], tags: InstrumentedAttribute[list[str]]
) -> ColumnElement[bool]:
    """Whether one of the columns or of the tags contains `text`, whose characters stand for themselves in any case."""
    lower = _lower(session)

    def contains(value: ColumnElement[str] | InstrumentedAttribute[str]) -> ColumnElement[bool]:
        return func.strpos(lower(value), lower(literal(text))) > 0

    tag: ColumnElement[str] = func.unnest(tags).column_valued("tag")
    return or_(*map(contains, columns), select(literal(1)).where(contains(tag)).exists())


def has_tags(column: InstrumentedAttribute[list[str]], tags: Sequence[str]) -> ColumnElement[bool]:
    """Whether a row has all of these tags."""
    return column.contains(list(tags))


def _lower(session: Session) -> Callable[[ColumnElement[str] | InstrumentedAttribute[str]], ColumnElement[str]]:
    version = session.connection().dialect.server_version_info or (0,)
    if int(version[0]) < UNICODE_CASE:
        return func.lower
    return lambda value: func.lower(value.collate("pg_c_utf8"))
