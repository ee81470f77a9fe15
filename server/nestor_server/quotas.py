"""How much of the server each user may take: studies, trials, and bytes announced or stored.

What a user has is read from the database at most every few seconds; what is added meanwhile is counted by this process.
So a quota costs honest requests nothing. It is read again before a request is refused.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import astuple, dataclass, fields
from time import monotonic
from typing import Any, NamedTuple, final
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from nestor.errors import QuotaExceeded
from nestor.schemas import State
from nestor_server.database import settings_of
from nestor_server.models import Blob, Dataset, Program, Study, Trial
from nestor_server.settings import Settings

READ_EVERY = 10.0  # seconds
READ_AGAIN = 1.0  # the same, before a refusal
MOST_REMEMBERED = 10_000  # users
LEAST_BYTES = 4096  # that a blob, program or data set counts as: its rows take room, too
UNFINISHED = [state.value for state in State if not state.finished]


@dataclass(frozen=True)
class Amounts:
    """What a user has, may have, or asks for."""

    studies: int = 0
    trials: int = 0
    unfinished_trials: int = 0
    bytes: int = 0

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


class Quota(NamedTuple):
    """How a refusal speaks of an amount, and when it makes sense to ask again."""

    setting: str
    what: str
    advice: str
    retry_after: int  # seconds


_UNTIL_PURGED = "Delete studies; what is deleted counts until it is purged"
QUOTAS = {
    "studies": Quota("max_studies", "studies, deleted ones included", _UNTIL_PURGED, 3600),
    "trials": Quota("max_trials", "trials, those of deleted studies included", _UNTIL_PURGED, 3600),
    "unfinished_trials": Quota(
        "max_unfinished_trials", "trials that are not finished", "Wait until some have ended, or cancel some", 60
    ),
    "bytes": Quota("max_stored_bytes", "bytes stored or announced", _UNTIL_PURGED, 3600),
}
assert list(QUOTAS) == [field.name for field in fields(Amounts)]


def limits(settings: Settings) -> Amounts:
    """What each user may have."""
    return Amounts(*(getattr(settings, quota.setting) for quota in QUOTAS.values()))


def usage(owner_id: Any) -> tuple[ColumnElement[int], ...]:
    """The `Amounts` of a user, as subqueries. `owner_id` may be a column."""
    own = Study.owner_id == owner_id
    blobs = select(func.sum(func.greatest(Blob.size, LEAST_BYTES))).where(Blob.owner_id == owner_id)
    programs = select(func.count() * LEAST_BYTES).where(Program.owner_id == owner_id)
    datasets = select(func.sum(func.pg_column_size(Dataset.splits) + LEAST_BYTES)).where(Dataset.owner_id == owner_id)
    stored = [func.coalesce(query.scalar_subquery(), 0) for query in (blobs, programs, datasets)]
    return (
        select(func.count()).select_from(Study).where(own).scalar_subquery(),
        func.coalesce(select(func.sum(Study.next_number)).where(own).scalar_subquery(), 0),
        select(func.count()).join_from(Study, Trial).where(own, Trial.state.in_(UNFINISHED)).scalar_subquery(),
        stored[0] + stored[1] + stored[2],
    )


def take(session: Session, owner_id: UUID, asked: Amounts) -> None:
    """Count what a user is about to add.

    Raises:
        QuotaExceeded: the user would have more than a user may have.
    """
    settings = settings_of(session)
    most, key = limits(settings), (settings.database_url, owner_id)
    exceeded = None
    for seconds in (READ_EVERY, READ_AGAIN):
        exceeded = _users.add(session, key, asked, most, seconds)
        if exceeded is None:
            return
    name, total = exceeded
    quota = QUOTAS[name]
    words = quota._asdict() | {"setting": f"NESTOR_{quota.setting.upper()}"}
    raise QuotaExceeded(total=total, limit=getattr(most, name), **words)


@dataclass
class _Known:
    amounts: Amounts
    read_at: float  # by `monotonic`


@final
class _Users:
    """What users had when it was read last, and what this process has let them add since."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, UUID], _Known] = OrderedDict()  # by database and user
        self._turns = [threading.Lock() for _ in range(64)]  # of users: one of two at once would count for nothing

    def add(
        self, session: Session, key: tuple[str, UUID], asked: Amounts, most: Amounts, seconds: float
    ) -> tuple[str, int] | None:
        """Add what is asked for, or return the name and the total of an amount that would be above `most`.

        Args:
            seconds: how long ago the user's amounts may have been read.
        """
        with self._turns[hash(key) % len(self._turns)]:
            known = self._read(session, key, seconds)
            total = known.amounts + asked
            for name in QUOTAS:
                if getattr(asked, name) and getattr(total, name) > getattr(most, name):
                    return name, getattr(total, name)
            known.amounts = total
        return None

    def _read(self, session: Session, key: tuple[str, UUID], seconds: float) -> _Known:
        with self._lock:
            known = self._known.get(key)
        if known is None or monotonic() - known.read_at > seconds:
            found = session.execute(select(*usage(key[1]))).one()
            known = _Known(Amounts(*map(int, found)), monotonic())
        with self._lock:
            self._known[key] = known
            self._known.move_to_end(key)
            if len(self._known) > MOST_REMEMBERED:
                self._known.popitem(last=False)
        return known


_users = _Users()
