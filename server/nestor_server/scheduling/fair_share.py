"""Which trial runs next: fair shares for users when slots are scarce.

A free slot takes a trial that only returns to the step after which it is to end, which is short. Otherwise it takes the
trial with the highest priority. Ties go to the user with the fewest running trials, then to the user who was served
longest ago, then to the trial of that user that has waited longest. A running trial whose time slice is over is ranked
together with the waiting trials, behind those of its own user. If it would not be chosen again, it is preempted: it
writes a checkpoint and is queued. It yields only to trials with the same number of devices that its worker can run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, DateTime, Select, Uuid, all_, and_, any_, cast, false, func, null, select, true
from sqlalchemy import update as update_table
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from nestor.schemas import Desired, EntryPointInfo, State
from nestor_server.models import Study, Trial, User, Worker
from nestor_server.scheduling import entry_points
from nestor_server.scheduling.state_machine import in_state

HEAD = 8  # trials that are ranked for a claim; more if others have locked all of them

_LASTS = Trial.ends_after.is_(None)  # False for a trial that only returns to a step
# A subquery, because PostgreSQL may prefer to read all studies for a join.
_OWNER = select(Study.owner_id).where(Study.id == Trial.study_id).scalar_subquery().label("owner_id")
_NEVER = cast(null(), DateTime(timezone=True))


def next_trial(session: Session, fits: ColumnElement[bool]) -> UUID | None:
    """The queued trial with the best rank for which `fits` holds, locked; None if every such trial is locked by others.

    Each rank assumes that the trials with better ranks are running already. So concurrent claims, which skip each
    other's trials and do not see each other's transitions, are as fair as successive ones.
    """
    n = HEAD
    while True:
        best = _best(session, fits, n)
        ranked = _array(best)
        found = session.scalars(
            select(Trial.id)
            .where(Trial.id == any_(ranked), in_state(State.queued))  # checked again under the lock
            .order_by(func.array_position(ranked, Trial.id))
            .limit(1)
            .with_for_update(of=Trial, skip_locked=True, key_share=True)
        ).one_or_none()
        if found is not None or len(best) < n:
            return found
        n *= 8


def note_served(session: Session, trial_id: UUID) -> None:
    """Record that the owner of this trial is served now.

    If another claim holds the row, that claim writes nearly the same time, and this one does not wait for it.
    """
    owner = select(User.id).join(Study, Study.owner_id == User.id).join(Trial, Trial.study_id == Study.id)
    unlocked = owner.where(Trial.id == trial_id).with_for_update(of=User, skip_locked=True, key_share=True)
    served = update_table(User).where(User.id == unlocked.scalar_subquery())
    served = served.values(served_at=func.greatest(User.served_at, func.now()))  # a claim that began later was faster
    session.execute(served.execution_options(synchronize_session=False))


def preempt(session: Session, slice_seconds: float) -> None:
    """Request the preemption of running trials whose time slice is over, one per waiting trial with a better rank."""
    over = and_(Trial.is_running, Trial.claimed_at < func.now() - timedelta(seconds=slice_seconds))
    held = select(Trial.devices, Worker.entry_points, func.array_agg(Trial.id)).where(over)
    held = held.outerjoin(Worker, Worker.id == Trial.lease_owner).group_by(Trial.devices, Worker.entry_points)
    for devices, listed, trial_ids in session.execute(held).all():
        offers = {name: EntryPointInfo.model_validate(info) for name, info in (listed or {}).items()}
        fits = and_(Trial.devices == devices, entry_points.runs_on(offers))
        yielding = set(trial_ids).difference(_best(session, fits, len(trial_ids), held=trial_ids))
        _ask_to_yield(session, and_(Trial.id == any_(_array(yielding)), over))


def vacate(session: Session) -> None:
    """Request the preemption of the trials of workers that drain."""
    draining = select(Worker.id).where(Worker.draining_since.is_not(None))
    _ask_to_yield(session, and_(Trial.is_running, Trial.lease_owner.in_(draining)))


def let_run(session: Session, workers: Sequence[str]) -> None:
    """Take back the preemption of the trials of these workers. Those whose time slice is over are asked again."""
    asked = and_(Trial.is_running, Trial.lease_owner.in_(workers), Trial.desired == Desired.preempt.value)
    update = update_table(Trial).where(asked).values(desired=Desired.run.value)
    session.execute(update.execution_options(synchronize_session=False))


def _ask_to_yield(session: Session, which: ColumnElement[bool]) -> None:
    # One that is locked now is looked at again in the reaper's next run. It waits for nobody, as it holds locks.
    asked = select(Trial.id).where(which, Trial.desired == Desired.run.value)
    locked = session.scalars(asked.with_for_update(skip_locked=True, key_share=True)).all()
    update = update_table(Trial).where(Trial.id == any_(_array(locked))).values(desired=Desired.preempt.value)
    session.execute(update.execution_options(synchronize_session=False))


def _best(session: Session, fits: ColumnElement[bool], n: int, held: Sequence[UUID] = ()) -> Sequence[UUID]:
    """The `n` best of the waiting trials for which `fits` holds and of the running trials `held`, by rank.

    A trial never ranks before those ahead of it in the line of its study. So the heads of the lines suffice, and the
    cost does not grow with the queue. They are read from an index that has each line in order: PostgreSQL then needs no
    statistics, which are those of before a burst of submissions.
    """
    places = _heads(fits, n).union_all(_running(held)).subquery()
    own: dict[str, Any] = {
        "partition_by": places.c.owner_id,
        "order_by": [places.c.keeps_slot.desc(), *_in_line(places.c)],
    }
    share = func.row_number().over(**own)  # trials of its user that have a slot once it has one, this one included
    # How often its user is served before: who would be served twice comes after those who would be served once.
    turn = func.count(places.c.queued_at).over(**own, rows=(None, -1))
    served_at = select(User.served_at).where(User.id == places.c.owner_id).scalar_subquery()
    ranked = select(places, share.label("share"), turn.label("turn"), served_at.label("served_at")).subquery()
    lasts, priority, *age = _in_line(ranked.c)
    order = [lasts, priority, ranked.c.share, ranked.c.turn, ranked.c.served_at.nulls_first(), *age]
    return session.scalars(select(ranked.c.id).where(~ranked.c.keeps_slot).order_by(*order).limit(n)).all()


def _in_line(places: ReadOnlyColumnCollection[str, Any]) -> list[ColumnElement[Any]]:
    """The order of a user's trials. Waiting ones come before running ones. The one that has run longest is last."""
    return [places.lasts, places.priority.desc(), places.queued_at, places.claimed_at.desc(), places.id]


def _heads(fits: ColumnElement[bool], n: int) -> Select[Any]:
    """The first `n` waiting trials of each study for which `fits` holds."""
    # The next study with a line is looked up from the one before: the index is not read as a whole.
    first = select(Trial.study_id).where(Trial.is_queued).order_by(Trial.study_id).limit(1)
    studies = select(first.subquery()).cte("studies_in_line", recursive=True)
    following = first.where(Trial.study_id > studies.c.study_id).scalar_subquery()
    studies = studies.union_all(select(following).where(studies.c.study_id.is_not(None)))
    head = (
        select(Trial.id, _OWNER, _LASTS.label("lasts"), Trial.priority, Trial.queued_at)
        .add_columns(_NEVER.label("claimed_at"), false().label("keeps_slot"))
        .where(Trial.study_id == studies.c.study_id, Trial.is_queued, fits)
        .order_by(_LASTS, Trial.priority.desc(), Trial.queued_at, Trial.id)  # as the index `ix_trials_line`
        .limit(n)
        .lateral()
    )
    return select(head).select_from(studies.join(head, true()))


def _running(held: Sequence[UUID]) -> Select[Any]:
    """The running trials. Those that are not `held` keep their slots."""
    return (
        select(Trial.id, _OWNER, _LASTS.label("lasts"), Trial.priority, _NEVER.label("queued_at"))
        .add_columns(Trial.claimed_at, (Trial.id != all_(_array(held))).label("keeps_slot"))
        .where(Trial.is_running)
    )


def _array(ids: Iterable[UUID]) -> ColumnElement[Sequence[UUID]]:
    return cast(list(ids), ARRAY(Uuid))
