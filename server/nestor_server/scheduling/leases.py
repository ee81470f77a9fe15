"""A trial's life: the only functions that change a trial's state, each by a move of the table in `state_machine`.

A running trial belongs to the worker that holds its lease: the user's wish is written into `desired`, the worker
reads it with each renewal and each recording, and makes the move itself. Everything the worker writes carries the
lease's token; a token that no longer matches changes nothing and raises `LeaseLost`. A lease that is not renewed and
a wish that is not answered have a deadline each, at which the server makes the move instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.orm import Session

from nestor.errors import IllegalTransition, PreemptionsSpent, RestartsSpent, TooManySteps
from nestor.schemas import MOST_STEPS, Action, Desired, State
from nestor_server.database import settings_of
from nestor_server.models import Trial, Worker
from nestor_server.scheduling import fair_share, rollback, state_machine, task_queue
from nestor_server.scheduling.state_machine import ACTIONS, GRANTS, MOVES, REFILLED

Budget = Literal["restarts", "preemptions"]  # what an end that nobody wished for is paid from


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


def request(session: Session, trial: Trial, action: Action, *, by: str = "user") -> Trial:
    """Ask for `action`: done at once if no worker has the trial, otherwise handed to the worker.

    Asking again for what is already so, or already asked for, changes nothing.

    Raises:
        IllegalTransition: not from the trial's present state; the error says what is allowed.
    """
    session.refresh(trial, with_for_update={"key_share": True})
    state, (desired, name) = State(trial.state), ACTIONS[action]
    why = f"{action} was asked for"
    if state is State.running:
        if trial.desired == Desired.cancel and desired is not Desired.cancel:
            raise IllegalTransition(state="being cancelled", action=action, allowed="nothing else")
        if trial.desired != desired:
            by_then = None if desired is Desired.run else _from_now(settings_of(session).answer_seconds)
            state_machine.write(session, Trial.id == trial.id, desired=desired.value, answer_by=by_then)
            state_machine.tell(session, trial.id, state, by=by, why=why, desired=desired)
    elif state in MOVES[name].sources:
        fresh = REFILLED if action == "retry" else {}
        state_machine.apply(session, name, Trial.id == trial.id, by=by, why=why, desired=desired.value, **fresh)
        if MOVES[name].target is State.queued:
            task_queue.send_on_commit(session, trial.id)
    elif state is not MOVES[name].target:
        raise _illegal(state, action)
    session.refresh(trial)
    return trial


def extend(session: Session, trial: Trial, steps: int, *, by: str = "user") -> Trial:
    """Queue a complete or paused trial again, to take `steps` more from the weights that it has.

    A complete trial takes them from the step that it reached, a paused one besides those that it has yet to take.
    Early stopping does not end it before.

    Raises:
        IllegalTransition: it is neither complete nor paused.
        InvalidInput: more steps in all than a trial can count.
    """
    session.refresh(trial, with_for_update={"key_share": True})
    state = State(trial.state)
    n_steps = (trial.step if state is State.complete else trial.n_steps) + steps
    if n_steps > MOST_STEPS:
        raise TooManySteps(n_steps=n_steps, limit=MOST_STEPS)
    why = f"{steps} more steps were asked for"
    values: dict[str, Any] = {"desired": Desired.run.value, "n_steps": n_steps, **REFILLED}
    if stopping := trial.spec.get("stop_early"):
        # Who asks for more steps wants them taken, though the trial had ended before its time.
        values["spec"] = trial.spec | {"stop_early": stopping | {"least_steps": n_steps}}
    if state_machine.apply(session, "extend", Trial.id == trial.id, by=by, why=why, **values) is None:
        raise _illegal(state, "extend")
    task_queue.send_on_commit(session, trial.id)
    session.refresh(trial)
    return trial


# --- the worker -----------------------------------------------------------------------------------


def claim(session: Session, trial_id: UUID, owner: str, *, where: ColumnElement[bool] | None = None) -> Lease | None:
    """Take a queued trial for `owner`; None when someone else was faster or it is not queued any more.

    What an earlier attempt recorded past its newest checkpoint will be computed again, so it is withdrawn here, and
    the journal says so, before anything new is written.
    """
    row = state_machine.apply(
        session,
        "claim",
        Trial.id == trial_id if where is None else and_(Trial.id == trial_id, where),
        by=owner,
        why="a worker is free",
        lease_token=Trial.lease_token + 1,
        lease_owner=owner,
        lease_expires_at=_from_now(settings_of(session).lease_seconds),
        claimed_at=func.now(),
        batches=0,
        attempt=Trial.attempt + 1,
        started_at=func.coalesce(Trial.started_at, func.now()),
    )
    if row is None:
        return None
    rollback.rewind(session, trial_id)
    return Lease(trial_id, row.lease_token, owner, row.lease_expires_at, row.attempt)


def claim_next(session: Session, trial_id: UUID, owner: str, *, devices: int = 1) -> Lease | None:
    """Take the queued trial whose turn it is for `owner`, whichever was named by the message; None when none waits.

    The named one serves when all that wait are held by others at this moment, such as by their users.

    Args:
        devices: that `owner` has; a trial that wants more is left to others.
    """
    fits = Trial.devices <= devices
    trial_id = fair_share.next_in_line(session, fits) or trial_id
    return claim(session, trial_id, owner, where=fits)


def renew(session: Session, lease: Lease) -> Desired:
    """Keep the lease for another `lease_seconds`; the answer is what is wanted of the trial.

    Raises:
        LeaseLost: it is not ours any more.
    """
    row = state_machine.write(session, lease.holds, lease_expires_at=_from_now(settings_of(session).lease_seconds))
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
    state_machine.apply(session, name, lease.holds, by=lease.owner, why=why, error=error)
    return state


def requeue(session: Session, lease: Lease, reason: str, *, paid_from: Budget | None = None) -> State:
    """Give the trial back unfinished, to go on elsewhere from its newest checkpoint.

    What nobody wished for is paid from a budget; when that is spent the trial fails, naming `reason`.

    Raises:
        LeaseLost: it is not ours any more.
    """
    return _released(session, lease, _held(session, lease), why=reason, paid_from=paid_from)


# --- the reaper -----------------------------------------------------------------------------------


def reap(session: Session) -> list[UUID]:
    """Do what is overdue, and return all trials whose message must be sent (again) after the commit.

    Trials whose worker fell silent, or did not do what it was told, are taken back, and those whose slice is over are
    told to make way. That a message was sent is no promise that it arrives: a flushed broker forgets it, and a worker
    that dies between receiving and claiming takes it along. So each slot that idles is called again; more messages
    than that would only pile up.
    """
    overdue = session.execute(
        select(Trial.id, Trial.desired, Trial.lease_owner, (Trial.lease_expires_at < func.now()).label("silent"))
        .where(
            Trial.state == State.running.value, or_(Trial.lease_expires_at < func.now(), Trial.answer_by < func.now())
        )
        .with_for_update(skip_locked=True, key_share=True)
    ).all()
    requeued: list[UUID] = []
    for row in overdue:
        did = "stopped answering" if row.silent else "did not do so in time"
        why = f"its worker ({row.lease_owner}) {did}"
        if _give_up(session, row.id, Desired(row.desired), by="server", why=why, paid_from="restarts") is State.queued:
            requeued.append(row.id)
    ours = settings_of(session)
    fair_share.end_slices(session, ours.slice_seconds)
    idle = select(func.count()).where(Worker.trial_id.is_(None), Worker.heartbeat_at > _from_now(-ours.lease_seconds))
    waiting = Trial.state == State.queued.value, Trial.sent_at < _from_now(-ours.requeue_after_seconds)
    called = select(Trial.id).where(*waiting).order_by(Trial.sent_at).limit(idle.scalar_subquery())
    forgotten = session.scalars(
        update(Trial)
        .where(*waiting, Trial.id.in_(called))
        .values(sent_at=func.now())
        .returning(Trial.id)
        .execution_options(synchronize_session=False)
    ).all()
    return [*requeued, *forgotten]


# --- how ------------------------------------------------------------------------------------------


def _from_now(seconds: float) -> ColumnElement[datetime]:
    return func.now() + timedelta(seconds=seconds)


def _illegal(state: State, action: str) -> IllegalTransition:
    return IllegalTransition(
        state=state.value, action=action, allowed=", ".join(state_machine.allowed(state)) or "nothing"
    )


def _held(session: Session, lease: Lease) -> Desired:
    """Lock the trial under the lease, so that what the user wants cannot change until the move is made."""
    query = select(Trial.desired).where(lease.holds).with_for_update(key_share=True)
    desired = session.scalars(query).one_or_none()
    if desired is None:
        raise LeaseLost(lease)
    return Desired(desired)


def _released(session: Session, lease: Lease, wish: Desired, *, why: str, paid_from: Budget | None = None) -> State:
    state = _give_up(session, lease.trial_id, wish, by=lease.owner, why=why, paid_from=paid_from)
    if state is State.queued:
        task_queue.send_on_commit(session, lease.trial_id)
    return state


def _give_up(session: Session, trial_id: UUID, wish: Desired, *, by: str, why: str, paid_from: Budget | None) -> State:
    """End an attempt before its time: what the user asked for is granted now, or the trial goes back into the queue."""
    where = Trial.id == trial_id
    if wish in GRANTS:
        action, name = GRANTS[wish]
        state_machine.apply(session, name, where, by=by, why=f"{action} was asked for; {why}")
        return MOVES[name].target
    if paid_from is not None:
        row = state_machine.write(session, where, **{paid_from: getattr(Trial, paid_from) + 1})
        spent, ours = getattr(row, paid_from), settings_of(session)
        most, kind = {
            "restarts": (ours.max_restarts, RestartsSpent),
            "preemptions": (ours.max_preemptions, PreemptionsSpent),
        }[paid_from]
        if spent > most:
            state_machine.apply(session, "fail", where, by=by, why=why, error=kind(count=spent, reason=why).problem())
            return State.failed
    state_machine.apply(session, "requeue", where, by=by, why=why)
    return State.queued
