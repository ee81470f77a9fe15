"""Actions on trials and database queries that tests share."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, select, update

from nestor.schemas import EventType
from nestor.schemas import Step as StepRecord
from nestor_server.models import Event, Trial
from nestor_server.scheduling import leases


def step(number: int, value: float | None = 1.0, **metrics: float) -> StepRecord:
    return StepRecord(
        number=number,
        train_loss=1.0,
        val_loss=1.0,
        val_examples=10,
        value=value,
        metrics=metrics,
        hypergradient_norm=1.0,
        inner_gradient_norm=1.0,
        outcome="truncated",
    )


def events(session, trial_id, type: EventType) -> list[dict]:
    query = select(Event.data).where(Event.trial_id == trial_id, Event.type == type.value).order_by(Event.seq)
    return list(session.scalars(query))


def expire(sessions, trial_id) -> None:
    with sessions.begin() as session:
        ago = func.now() - timedelta(seconds=1)
        session.execute(update(Trial).where(Trial.id == trial_id).values(lease_expires_at=ago))


def claim(sessions, trial_id, owner="w1"):
    with sessions.begin() as session:
        lease = leases.claim(session, trial_id, owner)
    assert lease is not None
    return lease
