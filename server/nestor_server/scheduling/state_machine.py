"""Makes transitions of `nestor.lifecycle` in the database, each with an entry in the event log."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, and_, case, false, func, select, true, update
from sqlalchemy.orm import Session

from nestor import lifecycle
from nestor.lifecycle import Transition
from nestor.results import verdicts
from nestor.schemas import Desired, EventType, State
from nestor_server.models import Trial
from nestor_server.scheduling import event_log, rankings

FRESH_BUDGETS = {"restarts": 0, "preemptions": 0}  # of a trial with a new checkpoint
FRESH_START = {**FRESH_BUDGETS, "crash": None}  # of one that its user sends on


def apply(
    session: Session, transition: Transition, where: ColumnElement[bool], *, by: str, why: str, **values: Any
) -> Row[*tuple[Any, ...]] | None:
    """Make one transition and record it; None if no trial for which `where` holds is in a state that allows it.

    Args:
        by: who makes it, for the event log: a user, a worker or the server.
        why: a clause for the event log.
        values: further columns of the trial to set.
    """
    target = transition.target
    values |= {"answer_by": None, **lifecycle.changes_on_entry(target, func.now())}
    values.setdefault("desired", case((Trial.desired == Desired.preempt.value, "run"), else_=Trial.desired))
    if target is not State.running:
        values |= {"lease_owner": None, "lease_expires_at": None}
    if target.finished:
        values |= {"ends_after": None, "ends_as": None}
    if target is State.queued:
        values |= {"queued_at": func.now(), "sent_at": func.now()}
    row = write(session, and_(where, in_state(*transition.sources)), state=target.value, **values)
    if row is not None:
        if target is State.complete:
            _warn(session, row.id)
        append_event(session, row.id, target, by=by, why=why, attempt=row.attempt, error=row.error)
    return row


def in_state(*states: State) -> ColumnElement[bool]:
    """Whether a trial, which other conditions find, is in one of `states`.

    As CASE, no index fits it. While statistics say that few trials are in a state, PostgreSQL would prefer an index on
    states to the primary key, and read all trials of that state.
    """
    return case((Trial.state.in_(states), true()), else_=false())


def write(session: Session, where: ColumnElement[bool], **values: Any) -> Row[*tuple[Any, ...]] | None:
    """Update the one trial for which `where` holds; None if no trial matches. Use `apply` to change a state."""
    return session.execute(
        update(Trial)
        .where(where)
        .values(**values)
        .returning(
            Trial.id,
            Trial.desired,
            Trial.lease_token,
            Trial.lease_expires_at,
            Trial.attempt,
            Trial.restarts,
            Trial.preemptions,
            Trial.error,
            Trial.traceparent,
        )
        .execution_options(synchronize_session=False)
    ).one_or_none()


def _warn(session: Session, trial_id: UUID) -> None:
    """Log the verdict on a trial that completes without a result that can be relied on."""
    columns = select(Trial.step, Trial.evidence, Trial.hyperparameters, Trial.spec, Trial.error)
    row = session.execute(columns.where(Trial.id == trial_id)).one()
    if text := verdicts.warning(rankings.verdict(row.evidence, row.hyperparameters, row.spec, row.error)):
        event_log.append(session, trial_id, EventType.log, {"step": row.step, "level": "warning", "text": text})


def append_event(session: Session, trial_id: UUID, state: State, **details: Any) -> None:
    """Record the trial's state with `details`: who changed what, and why. Details that are None are omitted."""
    given = {key: value for key, value in details.items() if value is not None}
    event_log.append(session, trial_id, EventType.state, {"state": state.value, **given})
