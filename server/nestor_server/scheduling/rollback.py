"""Withdraws steps of a trial: those after its newest checkpoint, or those after the step at which its user ends it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.orm import Session

from nestor.schemas import EventType
from nestor_server.models import Checkpoint, Distribution, Result, Snapshot, Step, StepNumbers, Trial
from nestor_server.scheduling import event_log, rankings
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
    # The last step of a trial is evaluated. One that was not is taken again.
    _delete_checkpoints(session, trial_id, step + 1 if _is_evaluated(session, trial_id, step) else step)
    _withdraw(session, trial_id, step, why="an end after this step was asked for")
    best = session.scalar(select(Trial.best_step).where(Trial.id == trial_id))
    if best is not None and not all(_has(session, table, trial_id, best) for table in (Snapshot, Result)):
        _delete_checkpoints(session, trial_id, best)  # a later best step has replaced its files: it is taken again
    if not _has(session, Checkpoint, trial_id) and took is not None and took > MAX_REPEATED:
        savepoint.rollback()
        return False
    savepoint.commit()
    return True


def _is_evaluated(session: Session, trial_id: UUID, step: int) -> bool:
    value = select(Step.data["value"].as_float()).where(Step.trial_id == trial_id, Step.number == step)
    return session.scalar(value) is not None


def _has(
    session: Session, table: type[Checkpoint | Snapshot | Result], trial_id: UUID, step: int | None = None
) -> bool:
    """Whether there is a file of this step, or of any."""
    found = exists().where(table.trial_id == trial_id)
    return bool(session.scalar(select(found if step is None else found.where(table.step == step))))


def _delete_checkpoints(session: Session, trial_id: UUID, first: int) -> None:
    garbage_collection.delete_unreferenced(session, _delete_after(session, Checkpoint, trial_id, first - 1))


def _withdraw(session: Session, trial_id: UUID, step: int, **details: str) -> None:
    """Delete steps, snapshots and results after `step`, and recompute the trial's row from what remains.

    If anything was deleted, the event log says to which step the trial was rolled back.
    """
    steps = delete(Step).where(Step.trial_id == trial_id, Step.number > step).returning(Step.number)
    deleted = session.scalars(steps.execution_options(synchronize_session=False)).all()
    for table in (StepNumbers, Distribution):
        later = delete(table).where(table.trial_id == trial_id, table.number > step)
        session.execute(later.execution_options(synchronize_session=False))
    blobs = [blob for table in (Snapshot, Result) for blob in _delete_after(session, table, trial_id, step)]
    garbage_collection.delete_unreferenced(session, blobs)
    if not deleted and not blobs:
        return

    best_step, best_value, last_value = rankings.best_recorded(session, trial_id)
    evidence, sparkline = rankings.recorded_course(session, trial_id)
    session.execute(
        update(Trial)
        .where(Trial.id == trial_id)
        .values(
            step=step,
            value=last_value,
            best_step=best_step,
            best_value=best_value,
            evidence=evidence.json(),
            sparkline=sparkline.json(),
        )
        .execution_options(synchronize_session=False)
    )
    event_log.append(session, trial_id, EventType.rewind, {"step": step, **details})


def _delete_after(
    session: Session, table: type[Checkpoint | Snapshot | Result], trial_id: UUID, step: int
) -> Sequence[UUID]:
    later = delete(table).where(table.trial_id == trial_id, table.step > step).returning(table.blob_id)
    return session.scalars(later.execution_options(synchronize_session=False)).all()
