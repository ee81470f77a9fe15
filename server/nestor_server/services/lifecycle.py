"""A trial's life: the one table of legal moves, and the only functions that change a trial's state.

    queued ──claim──► running ──► complete | failed | cancelled | paused
       ▲                 │
       └──── requeue ────┘        from its newest checkpoint, until the restart budget is spent

A running trial belongs to the worker that holds its lease: the user's wish is written into `desired`, the worker
reads it with each renewal and each recording, and makes the move itself. Everything the worker writes carries the
lease's token; a token that no longer matches changes nothing and raises `LeaseLost`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, func, select, update
from sqlalchemy.orm import Session

from nestor.errors import IllegalTransition, RestartsSpent
from nestor.schemas import Desired, EventType, State
from nestor_server import queue
from nestor_server.models import Checkpoint, Snapshot, Step, Trial
from nestor_server.services import garbage, journal
from nestor_server.settings import Settings, settings


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
}

WISHES: dict[Desired, tuple[str, str]] = {  # what the user may ask for: its name, and the move that grants it
    Desired.run: ("resume", "resume"),
    Desired.stop: ("stop", "complete"),
    Desired.cancel: ("cancel", "cancel"),
    Desired.pause: ("pause", "pause"),
}


class LeaseLost(Exception):
    """The lease expired and the trial moved on without this worker: stop at once, write nothing."""


@dataclass(frozen=True)
class Lease:
    trial_id: UUID
    token: int
    owner: str
    expires_at: datetime
    attempt: int

    @property
    def holds(self) -> ColumnElement[bool]:
        """The condition that every write under this lease carries."""
        return and_(Trial.id == self.trial_id, Trial.state == State.running.value, Trial.lease_token == self.token)


# --- the user -------------------------------------------------------------------------------------


def request(session: Session, trial: Trial, desired: Desired, *, by: str = "user") -> Trial:
    """Ask for `desired`: done at once if no worker has the trial, otherwise handed to the worker.

    Asking again for what is already so, or already asked for, changes nothing.

    Raises:
        IllegalTransition: not from the trial's present state; the error says what is allowed.
    """
    session.refresh(trial, with_for_update={"key_share": True})
    state = State(trial.state)
    action, name = WISHES[desired]
    why = f"{action} was asked for"
    if state is State.running:
        if trial.desired == Desired.cancel and desired is not Desired.cancel:
            raise IllegalTransition(state="being cancelled", action=action, allowed="nothing else")
        if trial.desired != desired:
            _write(session, Trial.id == trial.id, desired=desired.value)
            _journal(session, trial.id, state, by=by, why=why, desired=desired)
    elif state in MOVES[name].sources:
        _apply(session, name, Trial.id == trial.id, by=by, why=why, desired=desired.value)
        if MOVES[name].target is State.queued:
            queue.send_on_commit(session, trial.id)
    elif state is not MOVES[name].target:
        raise IllegalTransition(state=state.value, action=action, allowed=", ".join(allowed(state)) or "nothing")
    session.refresh(trial)
    return trial


def allowed(state: State) -> list[str]:
    """What the user may ask for in `state`, by name."""
    return [
        action
        for action, name in WISHES.values()
        if state in MOVES[name].sources or (state is State.running and action == "resume")
    ]


# --- the worker -----------------------------------------------------------------------------------


def claim(session: Session, trial_id: UUID, owner: str) -> Lease | None:
    """Take a queued trial for `owner`; None when someone else was faster or it is not queued any more.

    What an earlier attempt recorded past its newest checkpoint will be computed again, so it is withdrawn here, and
    the journal says so, before anything new is written.
    """
    row = _apply(
        session,
        "claim",
        Trial.id == trial_id,
        by=owner,
        why="a worker is free",
        lease_token=Trial.lease_token + 1,
        lease_owner=owner,
        lease_expires_at=_from_now(session),
        attempt=Trial.attempt + 1,
        started_at=func.coalesce(Trial.started_at, func.now()),
        finished_at=None,
        error=None,
    )
    if row is None:
        return None
    _rewind(session, trial_id)
    return Lease(trial_id, row.lease_token, owner, row.lease_expires_at, row.attempt)


def renew(session: Session, lease: Lease) -> Desired:
    """Keep the lease for another `lease_seconds`; the answer is what the user wants of the trial.

    Raises:
        LeaseLost: it is not ours any more.
    """
    row = _write(session, lease.holds, lease_expires_at=_from_now(session))
    if row is None:
        raise LeaseLost(lease)
    return Desired(row.desired)


def finish(
    session: Session, lease: Lease, state: State, error: dict[str, Any] | None = None, *, why: str = ""
) -> State:
    """End the attempt in `state`: complete, failed (with its problem+json), cancelled or paused.

    Returns the state that was reached. A pause that the user took back meanwhile puts the trial into the queue again.

    Raises:
        LeaseLost: it is not ours any more.
    """
    wish = _held(session, lease)
    if state is State.paused and wish is not Desired.pause:
        return _released(session, lease, wish, why="the pause was taken back")
    name = next(name for name, move in MOVES.items() if move.target is state)
    _apply(session, name, lease.holds, by=lease.owner, why=why, error=error)
    return state


def requeue(session: Session, lease: Lease, reason: str, *, involuntary: bool) -> State:
    """Give the trial back unfinished, to go on elsewhere from its newest checkpoint.

    An involuntary end is paid from the restart budget; when that is spent the trial fails, naming `reason`.

    Raises:
        LeaseLost: it is not ours any more.
    """
    return _released(session, lease, _held(session, lease), why=reason, involuntary=involuntary)


# --- the reaper -----------------------------------------------------------------------------------


def reap(session: Session) -> list[UUID]:
    """Take back trials whose worker fell silent, and return all whose message must be sent (again) after the commit.

    That a message was sent is no promise that it arrives: a flushed broker forgets it, and a worker that dies between
    receiving and claiming takes it along.
    """
    expired = session.execute(
        select(Trial.id, Trial.desired, Trial.lease_owner)
        .where(Trial.state == State.running.value, Trial.lease_expires_at < func.now())
        .with_for_update(skip_locked=True, key_share=True)
    ).all()
    requeued = [
        row.id
        for row in expired
        if _give_up(
            session,
            row.id,
            Desired(row.desired),
            by="server",
            why=f"its worker ({row.lease_owner}) stopped answering",
            involuntary=True,
        )
        is State.queued
    ]
    forgotten = session.scalars(
        update(Trial)
        .where(
            Trial.state == State.queued.value,
            Trial.sent_at < func.now() - timedelta(seconds=_settings(session).requeue_after_seconds),
        )
        .values(sent_at=func.now())
        .returning(Trial.id)
        .execution_options(synchronize_session=False)
    ).all()
    return [*requeued, *forgotten]


# --- how a move is made ---------------------------------------------------------------------------


def _apply(session: Session, name: str, where: ColumnElement[bool], *, by: str, why: str, **values: Any) -> Any:
    """Make one move, if it is legal, and journal it; None when no row was in a state to make it."""
    move = MOVES[name]
    if move.target is not State.running:
        values |= {"lease_owner": None, "lease_expires_at": None}
    if move.target is State.queued:
        values |= {"queued_at": func.now(), "sent_at": func.now()}
    if move.target.finished:
        values |= {"finished_at": func.now()}
    row = _write(session, and_(where, Trial.state.in_(move.sources)), state=move.target.value, **values)
    if row is not None:
        _journal(session, row.id, move.target, by=by, why=why, attempt=row.attempt, error=row.error)
    return row


def _settings(session: Session) -> Settings:
    return session.info.get("settings") or settings()


def _from_now(session: Session) -> ColumnElement[datetime]:
    return func.now() + timedelta(seconds=_settings(session).lease_seconds)


def _write(session: Session, where: ColumnElement[bool], **values: Any) -> Any:
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
            Trial.error,
        )
        .execution_options(synchronize_session=False)
    ).one_or_none()


def _journal(session: Session, trial_id: UUID, state: State, **what: Any) -> None:
    told = {key: value for key, value in what.items() if value is not None}
    journal.append(session, trial_id, EventType.state, {"state": state.value, **told})


def _held(session: Session, lease: Lease) -> Desired:
    """Lock the trial under the lease, so that what the user wants cannot change until the move is made."""
    query = select(Trial.desired).where(lease.holds).with_for_update(key_share=True)
    desired = session.scalars(query).one_or_none()
    if desired is None:
        raise LeaseLost(lease)
    return Desired(desired)


def _released(session: Session, lease: Lease, wish: Desired, *, why: str, involuntary: bool = False) -> State:
    state = _give_up(session, lease.trial_id, wish, by=lease.owner, why=why, involuntary=involuntary)
    if state is State.queued:
        queue.send_on_commit(session, lease.trial_id)
    return state


def _give_up(session: Session, trial_id: UUID, wish: Desired, *, by: str, why: str, involuntary: bool = False) -> State:
    """End an attempt before its time: what the user asked for is granted now, or the trial goes back into the queue."""
    where = Trial.id == trial_id
    if wish is not Desired.run:
        action, name = WISHES[wish]
        _apply(session, name, where, by=by, why=f"{action} was asked for; {why}")
        return MOVES[name].target
    if involuntary:
        row = _write(session, where, restarts=Trial.restarts + 1)
        if row.restarts > _settings(session).max_restarts:
            error = RestartsSpent(count=row.restarts, reason=why).problem()
            _apply(session, "fail", where, by=by, why=why, error=error)
            return State.failed
    _apply(session, "requeue", where, by=by, why=why)
    return State.queued


def _rewind(session: Session, trial_id: UUID) -> None:
    """Withdraw what lies past the newest checkpoint, and recompute what the trial's row says of its steps."""
    newest = select(func.coalesce(func.max(Checkpoint.step), 0)).where(Checkpoint.trial_id == trial_id)
    step = session.scalars(newest).one()
    withdrawn = session.execute(delete(Step).where(Step.trial_id == trial_id, Step.number > step)).rowcount  # pyright: ignore[reportAttributeAccessIssue] a DELETE's result is a cursor's
    snapshots = delete(Snapshot).where(Snapshot.trial_id == trial_id, Snapshot.step > step).returning(Snapshot.blob_id)
    blobs = session.scalars(snapshots.execution_options(synchronize_session=False)).all()
    garbage.collect(session, blobs)
    if not withdrawn and not blobs:
        return

    loss = Step.data["val_loss"].as_float()
    best = session.execute(
        select(Step.number, loss).where(Step.trial_id == trial_id).order_by(loss, Step.number).limit(1)
    ).one_or_none()
    last = session.scalars(select(loss).where(Step.trial_id == trial_id, Step.number == step)).one_or_none()
    best_step, best_value = best or (None, None)
    _write(session, Trial.id == trial_id, step=step, value=last, best_step=best_step, best_value=best_value)
    journal.append(session, trial_id, EventType.rewind, {"step": step})
