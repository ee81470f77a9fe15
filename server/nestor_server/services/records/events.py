"""A trial's steps and events in the order of the event log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Text, func, literal, select, union_all
from sqlalchemy.orm import Session

from nestor.schemas import Event, EventType, State
from nestor_server import models
from nestor_server.models import Trial
from nestor_server.services.lists import paging
from nestor_server.services.lists.paging import MAX_BYTES
from nestor_server.services.records.hyperparameters import in_declared_order

PAGE = 500
STEP_BYTES, EVENT_BYTES = paging.stored_bytes(models.Step.data), paging.stored_bytes(models.Event.data)


@dataclass(frozen=True)
class Page:
    """Consecutive entries, and the `seq` after which the next page begins."""

    items: tuple[Event, ...]
    next_after: int
    is_full: bool  # others may follow
    end: dict[str, Any] | None  # the data of the `end` event, if nothing follows this page


def read(session: Session, trial_id: UUID, after: int, limit: int = PAGE) -> Page:
    """Up to `limit` entries and `MAX_BYTES`, but at least one, whose seq is above `after`.

    One statement reads both tables. Two statements could miss an entry that is committed between them.
    """
    # The state first: if it is final, no entry can follow those below.
    state, seq, error, described = session.execute(
        select(Trial.state, Trial.seq, Trial.error, Trial.hyperparameters).where(Trial.id == trial_id)
    ).one()
    steps, events = models.Step, models.Event
    both = union_all(
        select(steps.seq, literal(EventType.step.value, Text).label("type"), steps.data, STEP_BYTES)
        .where(steps.trial_id == trial_id, steps.seq > after)
        .order_by(steps.seq)
        .limit(limit),
        select(
            events.seq, events.type, events.data.op("||")(func.jsonb_build_object("at", events.created_at)), EVENT_BYTES
        )
        .where(events.trial_id == trial_id, events.seq > after)
        .order_by(events.seq)
        .limit(limit),
    ).subquery()
    until = func.sum(both.c.bytes).over(order_by=both.c.seq).label("until")  # bytes of a row and those before it
    sized = select(both, until).subquery()
    within = sized.c.until - sized.c.bytes < MAX_BYTES
    rows = session.execute(select(sized).where(within).order_by(sized.c.seq).limit(limit)).all()
    items = tuple(Event(seq=row.seq, type=EventType(row.type), data=row.data) for row in rows)
    items = tuple(_in_order(event, described) for event in items)
    next_after = items[-1].seq if items else after
    is_full = len(rows) == limit or (bool(rows) and rows[-1].until >= MAX_BYTES)
    done = State(state).finished and not is_full
    return Page(items, next_after, is_full, {"state": state, "error": error, "seq": seq} if done else None)


def _in_order(event: Event, described: list[dict[str, Any]] | None) -> Event:
    """A step with its hyperparameters in the order of their declaration; other events as they are."""
    if event.type != EventType.step or not (summaries := event.data.get("hyperparameters")):
        return event
    ordered = in_declared_order(described, summaries)
    return event.model_copy(update={"data": event.data | {"hyperparameters": ordered}})
