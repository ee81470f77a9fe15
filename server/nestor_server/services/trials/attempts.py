"""A trial's attempts, read from its event log."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import ConfigDict, Field, TypeAdapter
from sqlalchemy import select
from sqlalchemy.orm import Session

from nestor import lifecycle, schemas
from nestor.errors import CursorInvalid
from nestor.schemas import EventType
from nestor_server.models import Event, Trial
from nestor_server.services.lists import cursors, paging
from nestor_server.services.trials import queries as trial_queries

STORED = paging.stored_bytes(Event.data)
# The list and the event before the first one of the next page.
PLACE: TypeAdapter[tuple[str, int]] = TypeAdapter(
    tuple[str, Annotated[int, Field(ge=0, lt=2**63)]], config=ConfigDict(strict=True)
)


def page(session: Session, owner_id: UUID, trial_id: UUID, *, cursor: str | None, limit: int) -> schemas.Attempts:
    """At most `limit` attempts at the trial, oldest first.

    Raises:
        TrialNotFound
        CursorInvalid: the cursor belongs to another list.
    """
    trial_queries.read(session, owner_id, trial_id, Trial.id)
    list_of = f"attempts of {trial_id}"
    name, after = (list_of, 0) if cursor is None else cursors.decode(PLACE, cursor)
    if name != list_of:
        raise CursorInvalid()
    is_change = Event.type == EventType.state.value, Event.data.has_key("attempt")
    where = Event.trial_id == trial_id, *is_change, Event.seq > after
    rows = select(Event.seq, STORED).where(*where).order_by(Event.seq)
    # The end of an attempt is the event after its begin, so a page ends before one that begins with its last event.
    index = paging.index(session, rows, limit + 1)
    shown = select(Event.seq, Event.data, Event.created_at).where(*where, index.holds(Event.seq)).order_by(Event.seq)
    changes = session.execute(shown).all()
    if index.more and len(changes) > 1 and changes[-1].data["state"] == schemas.State.running.value:
        changes = changes[:-1]
    items = tuple(lifecycle.attempts((data, at) for _, data, at in changes))
    return schemas.Attempts(
        items=items, next_cursor=cursors.encode(PLACE, (list_of, changes[-1].seq)) if index.more else None
    )
