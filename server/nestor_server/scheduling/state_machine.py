"""The one table of a trial's legal moves, and the one statement that makes a move.

queued ──claim──► running ──► complete | failed | cancelled | paused
   ▲                 │
   ├──── requeue ────┘        from its newest checkpoint, until a budget is spent
   ├──── resume               paused
   ├──── extend               complete, paused: more steps, the same weights
   └──── retry                failed: from its newest checkpoint, with fresh budgets
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, case, func, update
from sqlalchemy.orm import Session

from nestor.schemas import Action, Desired, EventType, State
from nestor_server.models import Trial
from nestor_server.scheduling import event_log


@dataclass(frozen=True)
class Move:
    sources: frozenset[State]
    target: State


def _move(*sources: State, to: State) -> Move:
    return Move(frozenset(sources), to)


MOVES: dict[str, Move] = {
    "claim": _move(State.queued, to=State.running),
    "requeue": _move(State.running, to=State.queued),
    "complete": _move(State.running, State.queued, State.paused, to=State.complete),
    "fail": _move(State.running, to=State.failed),
    "cancel": _move(State.running, State.queued, State.paused, to=State.cancelled),
    "pause": _move(State.running, State.queued, to=State.paused),
    "resume": _move(State.paused, to=State.queued),
    "extend": _move(State.complete, State.paused, to=State.queued),
    "retry": _move(State.failed, to=State.queued),
}

# What the user may ask for: what a worker that has the trial is told, and the move that grants it when none has.
ACTIONS: dict[Action, tuple[Desired, str]] = {
    "resume": (Desired.run, "resume"),
    "retry": (Desired.run, "retry"),
    "stop": (Desired.stop, "complete"),
    "cancel": (Desired.cancel, "cancel"),
    "pause": (Desired.pause, "pause"),
}
GRANTS = {desired: (action, name) for action, (desired, name) in ACTIONS.items() if desired is not Desired.run}

REFILLED = {"restarts": 0, "preemptions": 0}


def allowed(state: State) -> list[str]:
    """What the user may ask for in `state`, by name."""
    asked = [*((action, name) for action, (_, name) in ACTIONS.items()), ("extend", "extend")]
    return [
        action
        for action, name in asked
        if state in MOVES[name].sources or (state is State.running and action == "resume")
    ]


def apply(session: Session, name: str, where: ColumnElement[bool], *, by: str, why: str, **values: Any) -> Any:
    """Make one move, if it is legal, and journal it; None when no row was in a state to make it."""
    move = MOVES[name]
    values |= {"answer_by": None}
    values.setdefault("desired", case((Trial.desired == Desired.make_way.value, "run"), else_=Trial.desired))
    if move.target is not State.running:
        values |= {"lease_owner": None, "lease_expires_at": None}
    if move.target is State.queued:
        values |= {"queued_at": func.now(), "sent_at": func.now(), "finished_at": None, "error": None}
    if move.target.finished:
        values |= {"finished_at": func.now()}
    row = write(session, and_(where, Trial.state.in_(move.sources)), state=move.target.value, **values)
    if row is not None:
        tell(session, row.id, move.target, by=by, why=why, attempt=row.attempt, error=row.error)
    return row


def write(session: Session, where: ColumnElement[bool], **values: Any) -> Any:
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
        )
        .execution_options(synchronize_session=False)
    ).one_or_none()


def tell(session: Session, trial_id: UUID, state: State, **what: Any) -> None:
    told = {key: value for key, value in what.items() if value is not None}
    event_log.append(session, trial_id, EventType.state, {"state": state.value, **told})
