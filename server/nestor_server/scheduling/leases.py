"""Leases: the only functions that change a trial's state, each by a transition of `nestor.lifecycle`.

A running trial belongs to the worker that holds its lease. A user's request is written to `desired`. The worker reads
it with each renewal and each recording, and makes the transition itself. Every write of the worker checks the lease's
fencing token: if it no longer matches, nothing changes and `LeaseLost` is raised. A lease must be renewed and a desired
state reached before a deadline. At the deadline, the server makes the transition instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.orm import Session

from nestor import lifecycle
from nestor.errors import PreemptionsSpent, RestartsSpent, TrialCrashed
from nestor.lifecycle import Transition
from nestor.schemas import Action, Desired, EndingAction, State
from nestor_server.database import settings_of
from nestor_server.models import Trial, Worker
from nestor_server.observability import counts
from nestor_server.scheduling import entry_points, fair_share, rollback, state_machine, task_queue
from nestor_server.scheduling.entry_points import Offers
from nestor_server.scheduling.state_machine import FRESH_START, in_state

LeaseBudget = Literal["restarts", "preemptions"]  # the counter that an unrequested end of a lease increments
ENDINGS = ("stop", "prune")  # actions, and the desired states that they ask for
WHY_DRAINED = "preempted: its worker drains, and another one continues"
WHY_PREEMPTED = "preempted: its time slice is over, and other trials wait"
NO_END: dict[str, Any] = {"ends_after": None, "ends_as": None}


class LeaseLost(Exception):
    """The lease is not valid any more, and another worker may run the trial. The caller must stop and write nothing."""


@dataclass(frozen=True)
class Lease:
    """The right of the worker `owner` to run a trial until `expires_at`. `token` is the fencing token."""

    trial_id: UUID
    token: int
    owner: str
    expires_at: datetime
    attempt: int
    traceparent: str | None = None  # of the trial's submission

    @property
    def holds(self) -> ColumnElement[bool]:
        """The condition that every write under this lease must check."""
        return and_(Trial.id == self.trial_id, in_state(State.running), Trial.lease_token == self.token)


# --- the user -------------------------------------------------------------------------------------


def request(session: Session, trial: Trial, action: Action, *, by: str = "user") -> Trial:
    """Request `action`: done immediately if no worker has the trial, otherwise by its worker.

    A request for the current state, or one that is pending already, changes nothing.

    Raises:
        IllegalTransition: the action is not allowed in the trial's state. The error lists those that are.
    """
    lock(session, trial)
    state, why = State(trial.state), lifecycle.why_asked(action)
    withdraws = action == "resume" and trial.desired in ENDINGS
    end = NO_END if withdraws or action in ENDINGS else {}
    match lifecycle.respond(state, Desired(trial.desired), action):
        case Transition() as transition:
            values: dict[str, Any] = {**end, **(FRESH_START if transition is lifecycle.RETRY else {})}
            values["desired"] = (lifecycle.MEANINGS[action].desired or Desired.run).value
            state_machine.apply(session, transition, Trial.id == trial.id, by=by, why=why, **values)
            if transition.target is State.queued:
                task_queue.send_on_commit(session, trial.id)
        case Desired() as desired:
            deadline = None if desired is Desired.run else _from_now(settings_of(session).answer_seconds)
            state_machine.write(session, Trial.id == trial.id, desired=desired.value, answer_by=deadline, **end)
            state_machine.append_event(session, trial.id, state, by=by, why=why, desired=desired.value)
        case None:
            pass
    session.refresh(trial)
    return trial


def request_end(session: Session, trial: Trial, action: EndingAction, after: int, *, by: str = "user") -> Trial:
    """Request that the trial ends after step `after`, as a callback does that has seen this step.

    If the trial has gone on, later steps are withdrawn, and the trial is queued to be trained up to that step again.
    It ends with its later steps only if that would take too long; see `rollback.return_to`.

    Raises:
        IllegalTransition: the trial is cancelled.
    """
    lock(session, trial)
    state, desired = State(trial.state), Desired(trial.desired)
    answer = lifecycle.respond_after(state, desired, action, step=trial.step, after=after)
    if answer is lifecycle.REWIND and not rollback.return_to(session, trial.id, after):
        answer = lifecycle.PRUNE if (state, action) == (State.complete, "prune") else None
    end: dict[str, Any] = {"ends_after": after, "ends_as": action}
    why = lifecycle.why_asked(action, after)
    match answer:
        case Transition(target=State.queued) as transition:
            values = {"desired": Desired.run.value, **FRESH_START, **end}
            state_machine.apply(session, transition, Trial.id == trial.id, by=by, why=why, **values)
            task_queue.send_on_commit(session, trial.id)
        case Transition() as transition:
            state_machine.apply(session, transition, Trial.id == trial.id, by=by, why=why, desired=action)
        case Desired() if (trial.ends_after, trial.ends_as) != (after, action):
            if state is State.running:
                end |= {"desired": action, "answer_by": _from_now(settings_of(session).answer_seconds)}
            else:
                rollback.return_to(session, trial.id, after)
            state_machine.write(session, Trial.id == trial.id, **end)
            state_machine.append_event(session, trial.id, state, by=by, why=why, desired=action)
        case _:
            pass
    session.refresh(trial)
    return trial


def lock(session: Session, trial: Trial) -> None:
    """Read the trial's row again, and keep others from changing it until the end of this transaction."""
    session.refresh(trial, with_for_update={"key_share": True})


def extend(session: Session, trial: Trial, steps: int, *, by: str = "user") -> Trial:
    """Queue a complete, pruned or paused trial again, for `steps` more steps from its current weights.

    A paused trial takes them in addition to its remaining steps, another one after its last step. Neither early
    stopping nor the time limit ends the trial before these steps.

    Raises:
        IllegalTransition: the trial is neither complete nor pruned nor paused.
        InvalidInput: the total number of steps is above the maximum.
    """
    lock(session, trial)
    state = State(trial.state)
    lifecycle.respond(state, Desired(trial.desired), "extend")
    n_steps = lifecycle.steps_after_extension(state, trial.step, trial.n_steps, steps)
    values: dict[str, Any] = {"desired": Desired.run.value, "n_steps": n_steps, **FRESH_START}
    # A user who extends a trial wants these steps, even if early stopping or the clock had ended it.
    values |= {**NO_END, "spec": trial.spec | {"timeout": None}}
    if stopping := trial.spec.get("early_stopping"):
        values["spec"] |= {"early_stopping": stopping | {"min_steps": n_steps}}
    why = lifecycle.why_extended(steps)
    state_machine.apply(session, lifecycle.EXTEND, Trial.id == trial.id, by=by, why=why, **values)
    task_queue.send_on_commit(session, trial.id)
    session.refresh(trial)
    return trial


# --- the worker -----------------------------------------------------------------------------------


def claim(session: Session, trial_id: UUID, owner: str, *, where: ColumnElement[bool] | None = None) -> Lease | None:
    """Lease a queued trial to `owner`; None if it is not queued any more, or if `where` does not hold.

    Steps that earlier attempts recorded after the newest checkpoint will be computed again. They are rolled back
    here, before anything new is written, and the event log says so.
    """
    row = state_machine.apply(
        session,
        lifecycle.CLAIM,
        Trial.id == trial_id if where is None else and_(Trial.id == trial_id, where),
        by=owner,
        why=lifecycle.WHY_CLAIMED,
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
    rollback.roll_back(session, trial_id)
    fair_share.note_served(session, trial_id)
    return Lease(trial_id, row.lease_token, owner, row.lease_expires_at, row.attempt, row.traceparent)


def claim_next(
    session: Session, trial_id: UUID, owner: str, *, devices: int = 1, offers: Offers = MappingProxyType({})
) -> Lease | None:
    """Lease the queued trial that is next by fair share to `owner`; None if no trial waits, or if `owner` drains.

    Args:
        trial_id: named by the message. It is claimed only if all waiting trials are locked, such as by their users.
        devices: number of devices of `owner`. Trials that need more are left to other workers.
        offers: the entry points of `owner`. Trials of others are left to other workers.
    """
    # Locked until the commit: a worker that is asked to drain at this moment has this trial before, or does not get it.
    drains = select(Worker.draining_since.is_not(None)).where(Worker.id == owner).with_for_update(key_share=True)
    if session.scalar(drains):
        # It has used up the message. The reaper sends another one in its next run.
        unsent = update(Trial).where(Trial.id == trial_id, in_state(State.queued)).values(sent_at=func.to_timestamp(0))
        session.execute(unsent.execution_options(synchronize_session=False))
        return None
    fits = and_(Trial.devices <= devices, entry_points.runs_on(offers))
    lease = claim(session, fair_share.next_trial(session, fits) or trial_id, owner, where=fits)
    if lease is not None:
        runs = update(Worker).where(Worker.id == owner).values(trial_id=lease.trial_id)
        session.execute(runs.execution_options(synchronize_session=False))
    return lease


def renew(session: Session, lease: Lease) -> Desired:
    """Extend the lease to `lease_seconds` from now, and return the trial's desired state.

    Raises:
        LeaseLost: the lease is not valid any more.
    """
    row = state_machine.write(session, lease.holds, lease_expires_at=_from_now(settings_of(session).lease_seconds))
    if row is None:
        raise LeaseLost(lease)
    return Desired(row.desired)


def finish(
    session: Session, lease: Lease, state: State, error: dict[str, Any] | None = None, *, why: str = ""
) -> State:
    """End the attempt in `state`: complete, pruned, failed (with its problem+json), cancelled or paused.

    Returns the state that was reached. The trial is queued instead if the user has withdrawn a pause, or if it has
    gone on beyond the step after which it was to end.

    Raises:
        LeaseLost: the lease is not valid any more.
    """
    desired = _lock(session, lease)
    if state is State.paused and desired is not Desired.pause:
        return _release(session, lease, desired, why="the pause was withdrawn")
    if end := _requested_end(session, lease.trial_id, desired, state):
        state, why = end
        if state is State.queued:
            return _release(session, lease, Desired.run, why=why)
    transition = lifecycle.transition_to(state)
    state_machine.apply(session, transition, lease.holds, by=lease.owner, why=why, error=error)
    return state


def requeue(
    session: Session, lease: Lease, reason: str, *, paid_from: LeaseBudget | None = None, crash: str | None = None
) -> State:
    """End the attempt before the trial has ended. The next attempt continues from the newest checkpoint.

    Args:
        reason: a clause for the event log, and for the error if the budget is spent.
        paid_from: the budget of an end that nobody requested. The trial fails when the budget is spent.
        crash: what ended it, such as "SIGSEGV", if another attempt may end the same way. The trial fails if it does.

    Returns:
        The state that was reached: queued, failed, or the state that the user had requested.

    Raises:
        LeaseLost: the lease is not valid any more.
    """
    return _release(session, lease, _lock(session, lease), why=reason, paid_from=paid_from, crash=crash)


def yield_device(session: Session, lease: Lease) -> tuple[State, bool]:
    """`requeue` a trial that was preempted, with the reason: its worker drains, or other trials have waited longer.

    Returns:
        The state of the trial, and whether its worker drains.

    Raises:
        LeaseLost: the lease is not valid any more.
    """
    drains = session.scalar(select(Worker.draining_since.is_not(None)).where(Worker.id == lease.owner)) or False
    return requeue(session, lease, WHY_DRAINED if drains else WHY_PREEMPTED), drains


# --- the reaper -----------------------------------------------------------------------------------


def sweep_expired(session: Session) -> list[UUID]:
    """Make the overdue transitions, and return the trials whose messages the caller must send after the commit.

    The attempt ends for trials whose worker did not renew its lease, or did not reach the desired state in time.
    Trials whose time slice is over, or whose worker drains, are preempted. Messages can be lost: by a flushed broker,
    or by a worker that ends between receiving and claiming. So messages are sent again for waiting trials, one per
    idle slot, because more would only accumulate.
    """
    overdue = session.execute(
        select(Trial.id, Trial.desired, Trial.lease_owner, (Trial.lease_expires_at < func.now()).label("silent"))
        .where(Trial.is_running, or_(Trial.lease_expires_at < func.now(), Trial.answer_by < func.now()))
        .with_for_update(skip_locked=True, key_share=True)
    ).all()
    requeued: list[UUID] = []
    for row in overdue:
        failure = "stopped responding" if row.silent else "did not do so in time"
        why = f"its worker ({row.lease_owner}) {failure}"
        if (
            _end_attempt(session, row.id, Desired(row.desired), by="server", why=why, paid_from="restarts")
            is State.queued
        ):
            requeued.append(row.id)
    settings = settings_of(session)
    fair_share.vacate(session)
    fair_share.preempt(session, settings.slice_seconds)
    takes_trials = and_(Worker.heartbeat_at > _from_now(-settings.lease_seconds), Worker.draining_since.is_(None))
    idle = select(func.count()).where(Worker.trial_id.is_(None), takes_trials)
    sent_before = Trial.sent_at < _from_now(-settings.requeue_after_seconds)
    waiting = select(Trial.id).where(Trial.is_queued, sent_before, entry_points.is_offered(takes_trials))
    oldest = waiting.order_by(Trial.sent_at).limit(idle.scalar_subquery())
    # One that is locked now is being claimed, or is looked at again in the next run.
    resent = session.scalars(oldest.with_for_update(skip_locked=True, key_share=True)).all()
    sent = update(Trial).where(Trial.id.in_(resent)).values(sent_at=func.now())
    session.execute(sent.execution_options(synchronize_session=False))
    counts.add(session, {("attempts_ended", "expired"): len(overdue)})
    return [*requeued, *resent]


# --- helpers --------------------------------------------------------------------------------------


def _from_now(seconds: float) -> ColumnElement[datetime]:
    return func.now() + timedelta(seconds=seconds)


def _lock(session: Session, lease: Lease) -> Desired:
    """Lock the trial under the lease, so that the desired state cannot change until the transition is made."""
    query = select(Trial.desired).where(lease.holds).with_for_update(key_share=True)
    desired = session.scalars(query).one_or_none()
    if desired is None:
        raise LeaseLost(lease)
    return Desired(desired)


def _release(
    session: Session,
    lease: Lease,
    desired: Desired,
    *,
    why: str,
    paid_from: LeaseBudget | None = None,
    crash: str | None = None,
) -> State:
    state = _end_attempt(session, lease.trial_id, desired, by=lease.owner, why=why, paid_from=paid_from, crash=crash)
    if state is State.queued:
        task_queue.send_on_commit(session, lease.trial_id)
    return state


def _end_attempt(
    session: Session,
    trial_id: UUID,
    desired: Desired,
    *,
    by: str,
    why: str,
    paid_from: LeaseBudget | None,
    crash: str | None = None,
) -> State:
    """Enter the state that the user requested; otherwise the queue, or failed: it is spent, or crashed twice."""
    where = Trial.id == trial_id
    if desired in ENDINGS:
        after = session.scalar(select(Trial.ends_after).where(where))
        if after is not None and rollback.return_to(session, trial_id, after):
            desired, paid_from = Desired.run, None
    if desired in lifecycle.OBEDIENCE:
        transition = lifecycle.OBEDIENCE[desired].transition
        state_machine.apply(session, transition, where, by=by, why=f"{lifecycle.why_asked(desired)}; {why}")
        return transition.target
    if paid_from is not None:
        row = state_machine.write(session, where, **{paid_from: getattr(Trial, paid_from) + 1})
        spent, settings = getattr(row, paid_from), settings_of(session)
        limit, error_class = {
            "restarts": (settings.max_restarts, RestartsSpent),
            "preemptions": (settings.max_preemptions, PreemptionsSpent),
        }[paid_from]
        error = error_class(count=spent, reason=why) if spent > limit else _repeated(session, where, crash, why)
        if error is not None:
            state_machine.apply(session, lifecycle.FAIL, where, by=by, why=why, error=error.problem())
            return State.failed
    state_machine.apply(session, lifecycle.REQUEUE, where, by=by, why=why, desired=Desired.run.value)
    return State.queued


def _repeated(session: Session, where: ColumnElement[bool], crash: str | None, why: str) -> TrialCrashed | None:
    """Remember how the trial crashed; the error, if that was the same way, after the same step, as the time before."""
    step, before = session.execute(select(Trial.step, Trial.crash).where(where)).one()
    now = None if crash is None else f"{crash} after step {step}"
    if now is not None and now == before:
        return TrialCrashed(step=step, reason=why)
    state_machine.write(session, where, crash=now)
    return None


def _requested_end(session: Session, trial_id: UUID, desired: Desired, state: State) -> tuple[State, str] | None:
    """The state and the reason in place of the `state` that a worker reports; None: as it reports.

    They differ if the user asked for an end after a step. The state is `queued` if the trial must return to that step.
    """
    if state in (State.cancelled, State.paused):
        return None
    step, after, action = session.execute(
        select(Trial.step, Trial.ends_after, Trial.ends_as).where(Trial.id == trial_id)
    ).one()
    if after is None:
        pruned = state is State.complete and desired is Desired.prune
        return (State.pruned, lifecycle.OBEDIENCE[desired].why) if pruned else None
    end = lifecycle.OBEDIENCE[Desired(action)]
    target, why, again = end.transition.target, end.why, (State.queued, f"{action} was asked for after step {after}")
    if state is State.failed:
        return again if step >= after and rollback.return_to(session, trial_id, after) else None
    if step < after:  # it obeyed before it came to that step, or has ended by itself
        return again if desired in ENDINGS else None
    if step == after:
        return target, why
    if rollback.return_to(session, trial_id, after):
        return again
    return target, f"{why}; the request came too late to return to step {after}"
