"""Rolls a trial back to its newest checkpoint: later steps will be computed again."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from nestor.schemas import EventType
from nestor_server.models import Checkpoint, Snapshot, Step, Trial
from nestor_server.scheduling import event_log
from nestor_server.storage import garbage_collection


def roll_back(session: Session, trial_id: UUID) -> None:
    """Delete steps and snapshots after the newest checkpoint, and recompute the trial's row from the remaining steps.

    If anything was deleted, the event log says to which step the trial was rolled back.
    """
    newest = select(func.coalesce(func.max(Checkpoint.step), 0)).where(Checkpoint.trial_id == trial_id)
    step = session.scalars(newest).one()
    steps = delete(Step).where(Step.trial_id == trial_id, Step.number > step).returning(Step.number)
    deleted = session.scalars(steps.execution_options(synchronize_session=False)).all()
    snapshots = delete(Snapshot).where(Snapshot.trial_id == trial_id, Snapshot.step > step).returning(Snapshot.blob_id)
    blobs = session.scalars(snapshots.execution_options(synchronize_session=False)).all()
    garbage_collection.delete_unreferenced(session, blobs)
    if not deleted and not blobs:
        return

    # schemas.Step.value in SQL. Of equal values the first is the best, as in lifecycle.is_better.
    loss = func.coalesce(Step.data["held_out_loss"].as_float(), Step.data["val_loss"].as_float())
    best = session.execute(
        select(Step.number, loss).where(Step.trial_id == trial_id).order_by(loss, Step.number).limit(1)
    ).one_or_none()
    last = session.scalars(select(loss).where(Step.trial_id == trial_id, Step.number == step)).one_or_none()
    best_step, best_value = best or (None, None)
    session.execute(
        update(Trial)
        .where(Trial.id == trial_id)
        .values(step=step, value=last, best_step=best_step, best_value=best_value)
        .execution_options(synchronize_session=False)
    )
    event_log.append(session, trial_id, EventType.rewind, {"step": step})
