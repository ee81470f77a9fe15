"""Which trial is next: fair shares of too few slots.

A free slot takes the trial of the highest priority; among those, one of the user with the fewest running trials; among
those, of the user whose last turn is longest ago; and of that user's, the one that has waited longest. A running trial
whose slice is over is ranked together with those that wait, behind those of its own user. It is preempted if it would
not be taken again: it writes a checkpoint and queues. It yields only to trials of as many devices.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Subquery, and_, case, func, or_, select, update
from sqlalchemy.orm import Session

from nestor.schemas import Desired, State
from nestor_server.models import Study, Trial

QUEUED, RUNNING = Trial.state == State.queued.value, Trial.state == State.running.value


def next_trial(session: Session, fits: ColumnElement[bool]) -> UUID | None:
    """The queued trial that fits and whose turn it is, locked; None when none waits that nobody else has locked.

    Ranks are counted as if the trials before were running already. So claims that are made at once, which skip each
    other's trials and do not see each other's transitions, share as fairly as claims one after the other.
    """
    ranked = _ranked(and_(QUEUED, fits))
    return session.scalars(
        select(Trial.id)
        .join(ranked, ranked.c.id == Trial.id)
        .where(QUEUED)  # still, when the lock is held
        .order_by(ranked.c.rank)
        .limit(1)
        .with_for_update(of=Trial, skip_locked=True, key_share=True)
    ).one_or_none()


def preempt(session: Session, slice_seconds: float) -> None:
    """Ask running trials whose slice is over to yield, as many as trials with a better rank wait."""
    over = and_(RUNNING, Trial.claimed_at < func.now() - timedelta(seconds=slice_seconds))
    for devices, slots in session.execute(select(Trial.devices, func.count()).where(over).group_by(Trial.devices)):
        ranked = _ranked(and_(Trial.devices == devices, or_(QUEUED, over)))
        session.execute(
            update(Trial)
            .where(Trial.id.in_(select(ranked.c.id).where(ranked.c.rank > slots)))
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
    # Waiting trials come before running ones, and of those the one that has run longest comes last.
    age = [RUNNING, case((QUEUED, Trial.queued_at)), case((RUNNING, Trial.claimed_at)).desc(), Trial.id]
    before = func.row_number().over(partition_by=Study.owner_id, order_by=[Trial.priority.desc(), *age])
    candidates = (
        select(Trial.id, func.row_number().over(order_by=age).label("age"), Trial.priority, users.c.served)
        .add_columns((users.c.running + before).label("share"))  # of its user's trials, this one included
        .join(Study, Study.id == Trial.study_id)
        .join(users, users.c.owner_id == Study.owner_id)
        .where(candidate)
        .subquery()
    )
    order = [candidates.c.priority.desc(), candidates.c.share, candidates.c.served.nulls_first(), candidates.c.age]
    return select(candidates.c.id, func.row_number().over(order_by=order).label("rank")).subquery()
