"""Which trial runs next: fair shares for users when slots are scarce.

A free slot takes a trial that only returns to the step after which it is to end, which is short. Otherwise it takes the
trial with the highest priority. Ties go to the user with the fewest running trials, then to the user who was served
longest ago, then to the trial of that user that has waited longest. A running trial whose time slice is over is ranked
together with the waiting trials, behind those of its own user. If it would not be chosen again, it is preempted: it
writes a checkpoint and is queued. It yields only to trials with the same number of devices that its worker can run.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Subquery, and_, case, func, or_, select, update
from sqlalchemy.orm import Session

from nestor.schemas import Desired, EntryPointInfo, State
from nestor_server.models import Study, Trial, Worker
from nestor_server.scheduling import entry_points

QUEUED, RUNNING = Trial.state == State.queued.value, Trial.state == State.running.value


def next_trial(session: Session, fits: ColumnElement[bool]) -> UUID | None:
    """The queued trial with the best rank for which `fits` holds, locked; None if every such trial is locked by others.

    Each rank assumes that the trials with better ranks are running already. So concurrent claims, which skip each
    other's trials and do not see each other's transitions, are as fair as successive ones.
    """
    ranked = _ranked(and_(QUEUED, fits))
    return session.scalars(
        select(Trial.id)
        .join(ranked, ranked.c.id == Trial.id)
        .where(QUEUED)  # checked again under the lock
        .order_by(ranked.c.rank)
        .limit(1)
        .with_for_update(of=Trial, skip_locked=True, key_share=True)
    ).one_or_none()


def preempt(session: Session, slice_seconds: float) -> None:
    """Request the preemption of running trials whose time slice is over, one per waiting trial with a better rank."""
    over = and_(RUNNING, Trial.claimed_at < func.now() - timedelta(seconds=slice_seconds))
    held = select(Trial.devices, Worker.entry_points, func.array_agg(Trial.id)).where(over)
    held = held.outerjoin(Worker, Worker.id == Trial.lease_owner).group_by(Trial.devices, Worker.entry_points)
    for devices, listed, trial_ids in session.execute(held):
        offers = {name: EntryPointInfo.model_validate(info) for name, info in (listed or {}).items()}
        waiting = and_(QUEUED, Trial.devices == devices, entry_points.runs_on(offers))
        ranked = _ranked(or_(waiting, and_(over, Trial.id.in_(trial_ids))))
        session.execute(
            update(Trial)
            .where(Trial.id.in_(select(ranked.c.id).where(ranked.c.rank > len(trial_ids))))
            .where(over, Trial.desired == Desired.run.value)
            .values(desired=Desired.preempt.value)
            .execution_options(synchronize_session=False)
        )


def _ranked(candidate: ColumnElement[bool]) -> Subquery:
    """The trials for which `candidate` holds, each with its `rank`, from 1: the lowest is next."""
    users = (
        select(
            Study.owner_id,
            func.count().filter(and_(RUNNING, ~candidate)).label("running"),
            func.max(Trial.claimed_at).label("served"),
        )
        .join(Trial, Trial.study_id == Study.id)
        .group_by(Study.owner_id)
        .subquery()
    )
    # Waiting trials come before running ones. The trial that has run longest comes last.
    age = [RUNNING, case((QUEUED, Trial.queued_at)), case((RUNNING, Trial.claimed_at)).desc(), Trial.id]
    before = func.row_number().over(partition_by=Study.owner_id, order_by=[Trial.priority.desc(), *age])
    candidates = (
        select(Trial.id, func.row_number().over(order_by=age).label("age"), Trial.priority, users.c.served)
        .add_columns(Trial.ends_after.is_not(None).label("returns"))
        .add_columns((users.c.running + before).label("share"))  # trials of its user, including this one
        .join(Study, Study.id == Trial.study_id)
        .join(users, users.c.owner_id == Study.owner_id)
        .where(candidate)
        .subquery()
    )
    first = [candidates.c.returns.desc(), candidates.c.priority.desc()]
    order = [*first, candidates.c.share, candidates.c.served.nulls_first(), candidates.c.age]
    return select(candidates.c.id, func.row_number().over(order_by=order).label("rank")).subquery()
