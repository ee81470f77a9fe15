"""Whose turn it is: fair shares of too few slots.

A free slot takes the trial of the highest priority; among those, one of the user with the fewest running trials; among
those, of the user whose last turn is longest ago; and of that user's, the one that has waited longest. A running trial
whose slice is over stands in the same line, behind those of its user that wait, and makes way if it would not be taken
again: it writes a checkpoint and queues. It makes way for trials of as many devices only.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Subquery, and_, case, func, or_, select, update
from sqlalchemy.orm import Session

from nestor.schemas import Desired, State
from nestor_server.models import Study, Trial

QUEUED, RUNNING = Trial.state == State.queued.value, Trial.state == State.running.value


def next_in_line(session: Session, fits: ColumnElement[bool]) -> UUID | None:
    """The queued trial that fits and whose turn it is, locked; None when none waits that nobody else has locked.

    Places are counted as if those before were running already. So claims that are made at once, which skip each
    other's trials and do not see each other's moves, share as fairly as claims one after the other.
    """
    line = _line(and_(QUEUED, fits))
    return session.scalars(
        select(Trial.id)
        .join(line, line.c.id == Trial.id)
        .where(QUEUED)  # still, when the lock is had
        .order_by(line.c.place)
        .limit(1)
        .with_for_update(of=Trial, skip_locked=True, key_share=True)
    ).one_or_none()


def end_slices(session: Session, seconds: float) -> None:
    """Tell running trials to make way, so many as wait before them in line."""
    over = and_(RUNNING, Trial.claimed_at < func.now() - timedelta(seconds=seconds))
    for devices, slots in session.execute(select(Trial.devices, func.count()).where(over).group_by(Trial.devices)):
        line = _line(and_(Trial.devices == devices, or_(QUEUED, over)))
        session.execute(
            update(Trial)
            .where(Trial.id.in_(select(line.c.id).where(line.c.place > slots)))
            .where(over, Trial.desired == Desired.run.value)
            .values(desired=Desired.make_way.value)
            .execution_options(synchronize_session=False)
        )


def _line(stands: ColumnElement[bool]) -> Subquery:
    """The trials for which `stands` holds, each with its `place` in line, from 1."""
    users = (
        select(
            Study.owner_id,
            func.count().filter(and_(RUNNING, ~stands)).label("running"),
            func.max(Trial.claimed_at).label("served"),
        )
        .join(Trial, Trial.study_id == Study.id)
        .group_by(Study.owner_id)
        .subquery()
    )
    # Who waits goes before who runs, and who has run longest goes last.
    age = [RUNNING, case((QUEUED, Trial.queued_at)), case((RUNNING, Trial.claimed_at)).desc(), Trial.id]
    before = func.row_number().over(partition_by=Study.owner_id, order_by=[Trial.priority.desc(), *age])
    standing = (
        select(Trial.id, func.row_number().over(order_by=age).label("age"), Trial.priority, users.c.served)
        .add_columns((users.c.running + before).label("share"))  # of its user's trials, this one included
        .join(Study, Study.id == Trial.study_id)
        .join(users, users.c.owner_id == Study.owner_id)
        .where(stands)
        .subquery()
    )
    order = [standing.c.priority.desc(), standing.c.share, standing.c.served.nulls_first(), standing.c.age]
    return select(standing.c.id, func.row_number().over(order_by=order).label("place")).subquery()
