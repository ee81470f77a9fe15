"""Which trial runs next: fair shares for users when slots are scarce.

A free slot takes a trial that only returns to the step after which it is to end, which is short. Otherwise it takes the
trial with the highest priority. Ties go to the user with the fewest running trials, then to the user who was served
longest ago, then to the trial of that user that has waited longest. A running trial whose time slice is over is ranked
together with the waiting trials, behind those of its own user. If it would not be chosen again, it is preempted: it
writes a checkpoint and is queued. It yields only to trials with the same number of devices that its worker can run.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Uuid, and_, case, cast, func, or_, select, update
from sqlalchemy.orm import Session

from nestor.schemas import Desired, EntryPointInfo, State
from nestor_server.models import Study, Trial, User, Worker
from nestor_server.scheduling import entry_points

QUEUED, RUNNING = Trial.state == State.queued.value, Trial.state == State.running.value
LOOK_AHEAD = 100  # trials that other claims may hold locked at the same moment


def next_trial(session: Session, fits: ColumnElement[bool]) -> UUID | None:
    """The queued trial with the best rank for which `fits` holds, locked; None if every such trial is locked by others.

    Each rank assumes that the trials with better ranks are running already. So concurrent claims, which skip each
    other's trials and do not see each other's transitions, are as fair as successive ones.
    """
    best = _ranked(session, and_(QUEUED, fits), LOOK_AHEAD)
    return session.scalars(
        select(Trial.id)
        .where(Trial.id.in_(best), QUEUED)  # checked again under the lock
        .order_by(func.array_position(cast(best, ARRAY(Uuid)), Trial.id))
        .limit(1)
        .with_for_update(of=Trial, skip_locked=True, key_share=True)
    ).one_or_none()


def note_served(session: Session, trial_id: UUID) -> None:
    """Record that the owner of this trial is served now.

    If another claim holds the row, that claim writes nearly the same time, and this one does not wait for it.
    """
    owner = select(User.id).join(Study, Study.owner_id == User.id).join(Trial, Trial.study_id == Study.id)
    unlocked = owner.where(Trial.id == trial_id).with_for_update(of=User, skip_locked=True, key_share=True)
    served = update(User).where(User.id == unlocked.scalar_subquery()).values(served_at=func.now())
    session.execute(served.execution_options(synchronize_session=False))


def preempt(session: Session, slice_seconds: float) -> None:
    """Request the preemption of running trials whose time slice is over, one per waiting trial with a better rank."""
    over = and_(RUNNING, Trial.claimed_at < func.now() - timedelta(seconds=slice_seconds))
    held = select(Trial.devices, Worker.entry_points, func.array_agg(Trial.id)).where(over)
    held = held.outerjoin(Worker, Worker.id == Trial.lease_owner).group_by(Trial.devices, Worker.entry_points)
    for devices, listed, trial_ids in session.execute(held):
        offers = {name: EntryPointInfo.model_validate(info) for name, info in (listed or {}).items()}
        waiting = and_(QUEUED, Trial.devices == devices, entry_points.runs_on(offers))
        best = _ranked(session, or_(waiting, and_(over, Trial.id.in_(trial_ids))), len(trial_ids))
        if yielding := set(trial_ids).difference(best):
            session.execute(
                update(Trial)
                .where(Trial.id.in_(yielding), over, Trial.desired == Desired.run.value)
                .values(desired=Desired.preempt.value)
                .execution_options(synchronize_session=False)
            )


def _ranked(session: Session, candidate: ColumnElement[bool], n: int) -> list[UUID]:
    """The `n` best of the trials for which `candidate` holds, in the order in which they should run.

    The cost is that of the queue and of the running trials, whatever the planner believes: its statistics are those of
    before a burst of submissions. So the parts are materialized, and nothing large is joined but by a primary key.
    """
    running = (
        select(Study.owner_id, func.count().label("running"))
        .join(Trial, Trial.study_id == Study.id)
        .where(RUNNING, ~candidate)
        .group_by(Study.owner_id)
        .cte("running")
        .prefix_with("MATERIALIZED")
    )
    # Waiting trials come before running ones. The trial that has run longest comes last.
    age = [RUNNING, case((QUEUED, Trial.queued_at)), case((RUNNING, Trial.claimed_at)).desc(), Trial.id]
    own: dict[str, Any] = {"partition_by": Study.owner_id, "order_by": [Trial.priority.desc(), *age]}
    before = func.row_number().over(**own)
    # How often its user is served before: who would be served twice comes after those who would be served once.
    turn = func.count().filter(QUEUED).over(**own, rows=(None, -1))
    line = (
        select(Trial.id, Trial.priority, Study.owner_id, Trial.ends_after.is_not(None).label("returns"))
        .add_columns(func.row_number().over(order_by=age).label("age"), before.label("before"), turn.label("turn"))
        .join(Study, Study.id == Trial.study_id)
        .where(candidate)
        .cte("line")
        .prefix_with("MATERIALIZED")
    )
    heads = select(line).where(line.c.before <= n).cte("heads").prefix_with("MATERIALIZED")
    share = func.coalesce(running.c.running, 0) + heads.c.before  # trials of its user, including this one
    served = [heads.c.turn, User.served_at.nulls_first()]
    order = [heads.c.returns.desc(), heads.c.priority.desc(), share, *served, heads.c.age]
    best = (
        select(heads.c.id)
        .join(User, User.id == heads.c.owner_id)
        .outerjoin(running, running.c.owner_id == heads.c.owner_id)
        .order_by(*order)
        .limit(n)
    )
    return list(session.scalars(best))
