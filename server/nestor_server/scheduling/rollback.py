"""Withdraws steps of a trial: those after its newest checkpoint, or those after the step at which its user ends it."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from nestor.schemas import EventType
from nestor_server.models import Checkpoint, Snapshot, Step, Trial
from nestor_server.scheduling import event_log
from nestor_server.storage import garbage_collection

MAX_REPEATED = timedelta(minutes=10)  # of training that is repeated to end after a step without a checkpoint before it


def roll_back(session: Session, trial_id: UUID) -> None:
    """Withdraw what comes after the newest checkpoint, because it will be computed again."""
    newest = select(func.coalesce(func.max(Checkpoint.step), 0)).where(Checkpoint.trial_id == trial_id)
    _withdraw(session, trial_id, session.scalars(newest).one())


def return_to(session: Session, trial_id: UUID, step: int) -> bool:
    """Withdraw what comes after `step`, also checkpoints, so that the next attempt can end there.

    Returns:
        False, and nothing is withdrawn, if that attempt would begin at step 0 and repeat more than `MAX_REPEATED`:
        the checkpoints that are kept are all later, because the request came late.
    """
    trained = select(func.max(Step.recorded_at)).where(Step.trial_id == trial_id, Step.number <= step)
    took = session.scalar(select(trained.scalar_subquery() - Trial.started_at).where(Trial.id == trial_id))
    savepoint = session.begin_nested()
    _delete_checkpoints(session, trial_id, step + 1)
    _withdraw(session, trial_id, step, why="an end after this step was asked for")
    best = session.scalar(select(Trial.best_step).where(Trial.id == trial_id))
    snapshot = select(Snapshot.step).where(Snapshot.trial_id == trial_id, Snapshot.step == best)
    if best is not None and session.scalar(snapshot) is None:
        _delete_checkpoints(session, trial_id, best)  # a later best step has replaced its snapshot: it is taken again
    kept = session.scalar(select(func.count()).select_from(Checkpoint).where(Checkpoint.trial_id == trial_id))
    if not kept and took is not None and took > MAX_REPEATED:
        savepoint.rollback()
        return False
    savepoint.commit()
    return True


def _delete_checkpoints(session: Session, trial_id: UUID, first: int) -> None:
    later = delete(Checkpoint).where(Checkpoint.trial_id == trial_id, Checkpoint.step >= first)
    blobs = session.scalars(later.returning(Checkpoint.blob_id).execution_options(synchronize_session=False)).all()
    garbage_collection.delete_unreferenced(session, blobs)


def _withdraw(session: Session, trial_id: UUID, step: int, **details: str) -> None:
    """Delete steps and snapshots after `step`, and recompute the trial's row from the remaining steps.

    If anything was deleted, the event log says to which step the trial was rolled back.
    """
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
    event_log.append(session, trial_id, EventType.rewind, {"step": step, **details})
