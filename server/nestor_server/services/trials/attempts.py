"""A trial's attempts, read from its event log."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from nestor import lifecycle, schemas
from nestor.schemas import EventType
from nestor_server.models import Event, Trial
from nestor_server.services.trials import queries as trial_queries


def page(session: Session, owner_id: UUID, trial_id: UUID) -> schemas.Attempts:
    """All attempts of the trial, oldest first.

    Raises:
        TrialNotFound
    """
    trial_queries.read(session, owner_id, trial_id, Trial.id)
    changes = session.execute(
        select(Event.data, Event.created_at)
        .where(Event.trial_id == trial_id, Event.type == EventType.state.value)
        .order_by(Event.seq)
    )
    return schemas.Attempts(items=tuple(lifecycle.attempts((data, at) for data, at in changes)))
