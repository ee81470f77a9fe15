"""A trial's event log: one gap-free sequence of steps and events. A reader who resumes after number n misses nothing.

A bigserial does not guarantee this: transactions may commit in another order than they draw numbers, so a reader who
has seen 12 could miss 11, which is committed later. Here the number comes from the trial's own row, whose lock is held
until the commit. So numbers become visible in order, and a rollback returns them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from nestor.schemas import EventType
from nestor_server.models import Event, Trial
from nestor_server.webhooks import outbox

CHANNEL = "nestor_trial"  # NOTIFY's payload is the trial's id


def reserve(session: Session, trial_id: UUID, n: int = 1) -> int:
    """Reserve `n` consecutive numbers and return the first. Readers are woken when this transaction is committed."""
    last = session.execute(
        update(Trial)
        .where(Trial.id == trial_id)
        .values(seq=Trial.seq + n, active_at=func.now())
        .returning(Trial.seq)
        .execution_options(synchronize_session=False)
    ).scalar_one()
    notify(session, trial_id)
    return last - n + 1


def append(session: Session, trial_id: UUID, type: EventType | str, data: dict[str, Any]) -> int:
    """Write one event and return its number."""
    seq = reserve(session, trial_id)
    write(session, trial_id, [{"seq": seq, "type": EventType(type).value, "data": data}])
    return seq


def write(session: Session, trial_id: UUID, events: Sequence[dict[str, Any]]) -> None:
    """Write events whose numbers are reserved, and the notices about them."""
    if events:
        session.execute(insert(Event), [{"trial_id": trial_id, **event} for event in events])
        outbox.write(session, trial_id, events)


def notify(session: Session, trial_id: UUID) -> None:
    """Wake the trial's readers when this transaction is committed."""
    session.execute(select(func.pg_notify(CHANNEL, str(trial_id))))
