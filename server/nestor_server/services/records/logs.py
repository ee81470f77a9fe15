"""The lines of a trial's log."""

from __future__ import annotations

from functools import cache
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.schemas import EventType, LogLevel
from nestor_server.models import Event, Trial
from nestor_server.services.lists import paging
from nestor_server.services.trials import queries
from nestor_server.services.versions import Versioned

STORED = paging.stored_bytes(Event.data)


def page(session: Session, owner_id: UUID, trial_id: UUID, *, level: LogLevel, after: int, limit: int) -> Versioned:
    """Up to `limit` lines whose seq is above `after`, and which are at least as urgent as `level`.

    Raises:
        TrialNotFound
    """
    queries.read(session, owner_id, trial_id, Trial.id)
    levels = [one.value for one in LogLevel]
    where = [Event.trial_id == trial_id, Event.seq > after, Event.type == EventType.log.value]
    if level is not LogLevel.info:
        where.append(Event.data["level"].astext.in_(levels[levels.index(level) :]))
    rows = select(Event.seq, STORED).where(*where).order_by(Event.seq)
    index = cache(lambda: paging.index(session, rows, limit))

    def read() -> tuple[schemas.LogPage, str]:
        found = session.scalars(select(Event).where(*where, index().holds(Event.seq)).order_by(Event.seq))
        lines = tuple(schemas.LogLine(seq=one.seq, at=one.created_at, **one.data) for one in found)
        return schemas.LogPage(items=lines, next_after=index().next_after), index().version

    return Versioned(lambda: index().version, read)
