"""A trial's attempts, as its journal tells them: every lease began with one move and ended with another."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.schemas import Attempt, EventType, State
from nestor_server.models import Event
from nestor_server.services.trials import queries as trial_queries


def page(session: Session, owner_id: UUID, trial_id: UUID) -> schemas.Attempts:
    trial_queries.find(session, owner_id, trial_id)
    moves = session.execute(
        select(Event.data, Event.created_at)
        .where(Event.trial_id == trial_id, Event.type == EventType.state.value, Event.data.has_key("attempt"))
        .order_by(Event.seq)
    )
    found: list[Attempt] = []
    for data, at in moves:
        if data["state"] == State.running:
            found.append(Attempt(number=data["attempt"], worker=data["by"], started_at=at))
        elif found and found[-1].ended_at is None:  # else a move of a trial that nobody had
            ended = {"ended_at": at, "state": State(data["state"]), "why": data["why"]}
            found[-1] = found[-1].model_copy(update=ended)
    return schemas.Attempts(items=tuple(found))
