"""The lines of a trial's log."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.schemas import EventType, LogLevel
from nestor_server.models import Event
from nestor_server.services.trials import queries


def page(
    session: Session, owner_id: UUID, trial_id: UUID, *, level: LogLevel, after: int, limit: int
) -> schemas.LogPage:
    """Up to `limit` lines whose seq is above `after`, and which are at least as urgent as `level`.

    Raises:
        TrialNotFound
    """
    queries.find(session, owner_id, trial_id)
    levels = [one.value for one in LogLevel]
    query = select(Event).where(Event.trial_id == trial_id, Event.seq > after, Event.type == EventType.log.value)
    if level is not LogLevel.info:
        query = query.where(Event.data["level"].astext.in_(levels[levels.index(level) :]))
    found = session.scalars(query.order_by(Event.seq).limit(limit + 1)).all()
    lines = tuple(schemas.LogLine(seq=one.seq, at=one.created_at, **one.data) for one in found[:limit])
    return schemas.LogPage(items=lines, next_after=lines[-1].seq if len(found) > limit else None)
