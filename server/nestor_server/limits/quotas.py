"""How much of the server each user may take: studies, trials, and bytes announced or stored.

What a user has is read from the database at most every few seconds; what is added meanwhile is counted by this process.
So a quota costs honest requests nothing. It is read again before a request is refused.
"""

from __future__ import annotations

import threading
from dataclasses import astuple, dataclass, field, fields
from time import monotonic
from typing import Any, NamedTuple, final
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from nestor.errors import QuotaExceeded
from nestor_server.database import settings_of
from nestor_server.limits.remembered import Remembered
from nestor_server.models import UNFINISHED, Blob, Dataset, Program, Study, Trial
from nestor_server.settings import Settings

READ_EVERY = 10.0  # seconds
READ_AGAIN = 1.0  # the same, before a refusal
LEAST_BYTES = 4096  # that a blob, program or data set counts as: its rows take room, too
UNTIL_PURGED = "Delete studies; what is deleted counts until it is purged"


class Quota(NamedTuple):
    """The setting of an amount's limit, how a refusal speaks of it, and when it makes sense to ask again."""

    setting: str
    what: str
    advice: str = UNTIL_PURGED
    retry_after: int = 3600  # seconds


def _limited(setting: str, what: str, *words: Any) -> Any:
    return field(default=0, metadata={"quota": Quota(setting, what, *words)})


@dataclass(frozen=True)
class Amounts:
    """What a user has, may have, or asks for."""

    studies: int = _limited("max_studies", "studies, deleted ones included")
    trials: int = _limited("max_trials", "trials, those of deleted studies included")
    unfinished_trials: int = _limited(
        "max_unfinished_trials", "trials that are not finished", "Wait until some have ended, or cancel some", 60
    )
    bytes: int = _limited("max_stored_bytes", "bytes stored or announced")

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


QUOTAS: dict[str, Quota] = {one.name: one.metadata["quota"] for one in fields(Amounts)}


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
    exceeded = _users.add(session, key, asked, most, READ_EVERY) and _users.add(session, key, asked, most, READ_AGAIN)
    if exceeded is not None:
        name, total = exceeded
        words = QUOTAS[name]._asdict() | {"setting": f"NESTOR_{QUOTAS[name].setting.upper()}"}
        raise QuotaExceeded(total=total, limit=getattr(most, name), **words)


@dataclass
class _Known:
    amounts: Amounts
    read_at: float  # by `monotonic`


@final
class _Users:
    """What users had when it was read last, and what this process has let them add since."""

    def __init__(self) -> None:
        self._known: Remembered[tuple[str, UUID], _Known] = Remembered()  # by database and user
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
        known = self._known.get(key)
        if known is None or monotonic() - known.read_at > seconds:
            found = session.execute(select(*usage(key[1]))).one()
            known = _Known(Amounts(*map(int, found)), monotonic())
        self._known.put(key, known)
        return known


_users = _Users()
