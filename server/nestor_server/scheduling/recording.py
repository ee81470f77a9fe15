"""What a worker reports of a running trial, written in one transaction under its lease."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import case, delete, func, or_, select, update
from sqlalchemy import insert as plain_insert
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from nestor.schemas import Desired, EventType, HyperparameterInfo
from nestor.schemas import Step as StepRecord
from nestor_server.models import Checkpoint, Event, Snapshot, Step, Study, Trial
from nestor_server.scheduling import event_log
from nestor_server.scheduling.leases import Lease, LeaseLost
from nestor_server.scheduling.state_machine import REFILLED
from nestor_server.storage import blobs, garbage_collection

CHECKPOINTS_KEPT = 2  # the one before the newest, too: the newest could have been written by a failing machine


@dataclass(frozen=True)
class Tensors:
    """A snapshot or a checkpoint: safetensors at one step."""

    step: int
    data: bytes
    replaces: tuple[int, ...] = ()  # steps of earlier snapshots that this one makes superfluous


@dataclass(frozen=True)
class Log:
    step: int
    text: str
    level: str = "info"


@dataclass(frozen=True)
class Batch:
    """What happened since the last batch, in order of steps."""

    steps: tuple[StepRecord, ...] = ()
    snapshots: tuple[Tensors, ...] = ()
    checkpoints: tuple[Tensors, ...] = ()
    logs: tuple[Log, ...] = ()
    hyperparameters: tuple[HyperparameterInfo, ...] | None = None
    number: int | None = None  # of the lease's batches, from 1: one whose commit went unheard may be sent again

    def __bool__(self) -> bool:
        return any((self.steps, self.snapshots, self.checkpoints, self.logs, self.hyperparameters))


def record(session: Session, lease: Lease, batch: Batch) -> Desired:
    """Write `batch`, all of it or nothing, and once; the answer is what the user wants of the trial.

    Raises:
        LeaseLost: the trial is someone else's by now, and nothing was written.
    """
    # The bytes go first: they may take long, and the trial's row, which the heartbeat needs, is not locked yet.
    stored = _store(session, lease.trial_id, [*batch.snapshots, *batch.checkpoints])
    entries = _entries(batch)
    row = session.execute(
        update(Trial)
        .where(lease.holds, Trial.batches < (batch.number or Trial.batches + 1))
        .values(seq=Trial.seq + len(entries), batches=Trial.batches + 1, **_progress(batch, lease.trial_id))
        .returning(Trial.seq, Trial.desired)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if row is None:
        garbage_collection.delete_unreferenced(
            session, list(stored.values())
        )  # of those, what the first time has dropped again
        return _recorded(session, lease)

    numbered = list(enumerate(entries, start=row.seq - len(entries) + 1))
    steps = [
        {"trial_id": lease.trial_id, "seq": seq, "number": what.number, "data": what.model_dump(mode="json")}
        for seq, what in numbered
        if isinstance(what, StepRecord)
    ]
    events = [
        {"trial_id": lease.trial_id, "seq": seq, **_event(what)}
        for seq, what in numbered
        if not isinstance(what, StepRecord)
    ]
    if steps:
        session.execute(plain_insert(Step), steps)
    if events:
        session.execute(plain_insert(Event), events)
    _keep(session, Snapshot, lease.trial_id, batch.snapshots, stored)
    _keep(session, Checkpoint, lease.trial_id, batch.checkpoints, stored)
    _drop(session, lease.trial_id, batch)
    event_log.notify(session, lease.trial_id)
    return Desired(row.desired)


def _recorded(session: Session, lease: Lease) -> Desired:
    """The answer to a batch that was there already, unless it was the lease that did not hold."""
    desired = session.scalars(select(Trial.desired).where(lease.holds)).one_or_none()
    if desired is None:
        raise LeaseLost(lease)
    return Desired(desired)


def _entries(batch: Batch) -> list[StepRecord | Tensors | Log]:
    """What is journalled, in the order in which it happened: a step, then its snapshot, then what was said of it."""
    ranked: list[tuple[int, int, StepRecord | Tensors | Log]] = [
        *((step.number, 0, step) for step in batch.steps),
        *((snapshot.step, 1, snapshot) for snapshot in batch.snapshots),
        *((log.step, 2, log) for log in batch.logs),
    ]
    return [what for _, _, what in sorted(ranked, key=lambda entry: entry[:2])]


def _event(what: Tensors | Log) -> dict[str, Any]:
    if isinstance(what, Log):
        return {
            "type": EventType.log.value,
            "data": {"step": what.step, "level": what.level, "text": what.text},
        }
    return {"type": EventType.snapshot.value, "data": {"step": what.step}}


def _progress(batch: Batch, trial_id: UUID) -> dict[str, Any]:
    """What the trial's own row says of its steps, kept in the same statement as the fence."""
    values: dict[str, Any] = {}
    if batch.steps:
        last, best = batch.steps[-1], min(batch.steps, key=lambda step: step.value)
        better = or_(Trial.best_value.is_(None), Trial.best_value > best.value)
        values |= {
            "step": last.number,
            "value": last.value,
            "best_value": case((better, best.value), else_=Trial.best_value),
            "best_step": case((better, best.number), else_=Trial.best_step),
        }
    if batch.hyperparameters is not None:
        values["hyperparameters"] = [info.model_dump(mode="json") for info in batch.hyperparameters]
    if batch.checkpoints:
        newest = select(func.coalesce(func.max(Checkpoint.step), -1)).where(Checkpoint.trial_id == trial_id)
        gained = batch.checkpoints[-1].step > newest.scalar_subquery()
        values |= {name: case((gained, 0), else_=getattr(Trial, name)) for name in REFILLED}
    return values


def _store(session: Session, trial_id: UUID, tensors: list[Tensors]) -> dict[bytes, UUID]:
    """Store the bytes as blobs of the study's owner: SHA-256 → blob."""
    if not tensors:
        return {}
    owner = session.scalars(select(Study.owner_id).join(Trial).where(Trial.id == trial_id)).one()
    named = {hashlib.sha256(what.data).digest(): what.data for what in tensors}
    # In one order for all: two trials of one owner that store the same blobs must not wait for each other in a circle.
    return {key: blobs.store(session, owner, named[key]).id for key in sorted(named)}


def _keep(
    session: Session,
    table: type[Snapshot] | type[Checkpoint],
    trial_id: UUID,
    tensors: Sequence[Tensors],
    stored: dict[bytes, UUID],
) -> None:
    # A step may come twice: step 0 with each attempt, the last one as both "due" and "final".
    at = {what.step: stored[hashlib.sha256(what.data).digest()] for what in tensors}
    if at:
        rows = [{"trial_id": trial_id, "step": step, "blob_id": blob} for step, blob in at.items()]
        new = insert(table).values(rows)
        session.execute(
            new.on_conflict_do_update(index_elements=["trial_id", "step"], set_={"blob_id": new.excluded.blob_id})
        )


def _drop(session: Session, trial_id: UUID, batch: Batch) -> None:
    """Forget superfluous snapshots and all but the newest checkpoints, and the bytes that only they held."""
    dropped: list[UUID] = []
    superfluous = {step for s in batch.snapshots for step in s.replaces} - {s.step for s in batch.snapshots}
    if superfluous:
        mine = delete(Snapshot).where(Snapshot.trial_id == trial_id, Snapshot.step.in_(superfluous))
        dropped += session.scalars(mine.returning(Snapshot.blob_id).execution_options(synchronize_session=False))
    if batch.checkpoints:
        newest = select(Checkpoint.step).where(Checkpoint.trial_id == trial_id).order_by(Checkpoint.step.desc())
        old = delete(Checkpoint).where(
            Checkpoint.trial_id == trial_id, Checkpoint.step.not_in(newest.limit(CHECKPOINTS_KEPT))
        )
        dropped += session.scalars(old.returning(Checkpoint.blob_id).execution_options(synchronize_session=False))
    garbage_collection.delete_unreferenced(session, dropped)
