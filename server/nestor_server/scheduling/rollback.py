"""Rolls a trial back to its newest checkpoint: later steps will be computed again."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from nestor.schemas import EventType
from nestor_server.models import Checkpoint, Result, Snapshot, Step, Trial
from nestor_server.scheduling import event_log, rankings
from nestor_server.storage import garbage_collection


def roll_back(session: Session, trial_id: UUID) -> None:
    """Delete steps, snapshots and results after the newest checkpoint, and recompute the trial's row from what remains.

    If anything was deleted, the event log says to which step the trial was rolled back.
    """
    newest = select(func.coalesce(func.max(Checkpoint.step), 0)).where(Checkpoint.trial_id == trial_id)
    step = session.scalars(newest).one()
    steps = delete(Step).where(Step.trial_id == trial_id, Step.number > step).returning(Step.number)
    deleted = session.scalars(steps.execution_options(synchronize_session=False)).all()
    blobs = [blob for table in (Snapshot, Result) for blob in _delete_after(session, table, trial_id, step)]
    garbage_collection.delete_unreferenced(session, blobs)
    if not deleted and not blobs:
        return

    best_step, best_value, last_value = rankings.best_recorded(session, trial_id)
    session.execute(
        update(Trial)
        .where(Trial.id == trial_id)
        .values(step=step, value=last_value, best_step=best_step, best_value=best_value)
        .execution_options(synchronize_session=False)
    )
    event_log.append(session, trial_id, EventType.rewind, {"step": step})


def _delete_after(session: Session, table: type[Snapshot] | type[Result], trial_id: UUID, step: int) -> Sequence[UUID]:
    later = delete(table).where(table.trial_id == trial_id, table.step > step).returning(table.blob_id)
    return session.scalars(later.execution_options(synchronize_session=False)).all()
