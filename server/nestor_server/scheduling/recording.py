"""Records what a worker reports of a running trial, in one transaction under its lease."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, case, delete, func, or_, select, update
from sqlalchemy import insert as plain_insert
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from nestor import lifecycle
from nestor.ranking import Ranking
from nestor.results.progress.pace import Pace, Sparkline
from nestor.results.verdicts import Evidence
from nestor.schemas import Desired, Distributions, EventType, HyperparameterInfo
from nestor.schemas import Step as StepRecord
from nestor_server.models import (
    NUMBERS,
    Base,
    Checkpoint,
    Distribution,
    Result,
    Snapshot,
    Step,
    StepNumbers,
    Study,
    Trial,
)
from nestor_server.scheduling import event_log, rankings
from nestor_server.scheduling.leases import Lease, LeaseLost
from nestor_server.scheduling.state_machine import FRESH_BUDGETS
from nestor_server.storage import blobs, garbage_collection

CHECKPOINTS_KEPT = 2  # also the second newest: a failing machine could have written the newest


@dataclass(frozen=True)
class TensorFile:
    """A snapshot, a checkpoint or a result: the bytes of a safetensors file, and its step."""

    step: int
    data: bytes
    replaces: tuple[int, ...] = ()  # steps whose snapshots are deleted with this one
    entries: dict[str, Any] | None = None  # of a snapshot: schemas.RecordedEntries

    @cached_property
    def digest(self) -> bytes:
        """The SHA-256 of the bytes."""
        return hashlib.sha256(self.data).digest()


@dataclass(frozen=True)
class LogRecord:
    """A line of the trial's log. `level` is "info" or "warning"."""

    step: int
    text: str
    level: str = "info"


@dataclass(frozen=True)
class RecordedBatch:
    """What the worker reports since the last batch. `steps` and `distributions` are in order."""

    steps: tuple[StepRecord, ...] = ()
    distributions: tuple[Distributions, ...] = ()
    snapshots: tuple[TensorFile, ...] = ()
    checkpoints: tuple[TensorFile, ...] = ()
    results: tuple[TensorFile, ...] = ()
    logs: tuple[LogRecord, ...] = ()
    hyperparameters: tuple[HyperparameterInfo, ...] | None = None
    seconds: float | None = None  # wall time of training, over all attempts; None: as recorded before
    number: int | None = None  # in this lease, from 1, so that a batch can be sent again; None: once

    def __bool__(self) -> bool:
        tensors = (self.snapshots, self.checkpoints, self.results)
        return any((self.steps, self.distributions, *tensors, self.logs, self.hyperparameters))


def record(session: Session, lease: Lease, batch: RecordedBatch) -> Desired:
    """Write `batch` atomically, and return the trial's desired state. A batch that was recorded before has no effect.

    Raises:
        LeaseLost: the lease is not valid any more, and nothing was written.
        Unavailable: the object store does not answer.
    """
    # First the bytes, which may take long: the trial's row, which the heartbeat needs, is not locked yet.
    stored = _store(session, lease.trial_id, [*batch.snapshots, *batch.checkpoints, *batch.results])
    entries = _entries(batch)
    row = session.execute(
        update(Trial)
        .where(lease.holds, Trial.batches < (batch.number or Trial.batches + 1))
        .values(
            seq=Trial.seq + len(entries),
            batches=Trial.batches + 1,
            active_at=func.now(),
            **_progress(session, batch, lease.trial_id),
        )
        .returning(Trial.seq, Trial.desired)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if row is None:
        # If the batch was recorded before, later batches may have deleted some of its blobs. Delete them again.
        garbage_collection.delete_unreferenced(session, list(stored.values()))
        return _desired(session, lease)

    numbered = list(enumerate(entries, start=row.seq - len(entries) + 1))
    steps: list[dict[str, Any]] = [
        {"trial_id": lease.trial_id, "seq": seq, "number": entry.number, "data": entry.model_dump(mode="json")}
        for seq, entry in numbered
        if isinstance(entry, StepRecord)
    ]
    events = [{"seq": seq, **_event(entry)} for seq, entry in numbered if not isinstance(entry, StepRecord)]
    if steps:
        session.execute(plain_insert(Step), steps)
        numbers = [{name: step["data"][name] for name in ("number", *NUMBERS)} for step in steps]
        session.execute(plain_insert(StepNumbers), [{"trial_id": lease.trial_id, **one} for one in numbers])
    if batch.distributions:
        _keep_distributions(session, lease.trial_id, batch.distributions)
    event_log.write(session, lease.trial_id, events)
    row_of = partial(_row, lease.trial_id, stored)
    _upsert(session, Snapshot, [row_of(file) | {"entries": file.entries} for file in batch.snapshots])
    _upsert(session, Checkpoint, [row_of(file) for file in batch.checkpoints])
    _upsert(session, Result, [row_of(file) for file in batch.results])
    _delete_replaced(session, lease.trial_id, batch)
    event_log.notify(session, lease.trial_id)
    return Desired(row.desired)


def _keep_distributions(session: Session, trial_id: UUID, new: Sequence[Distributions]) -> None:
    """Keep those that `lifecycle.distribution_interval` asks for, and the last."""
    declared = session.scalars(select(Trial.hyperparameters).where(Trial.id == trial_id)).one() or []
    newest = new[-1].number
    interval = lifecycle.distribution_interval(
        newest, lifecycle.count_with_distributions(info["shape"] for info in declared)
    )
    given_up = (Distribution.number < newest, Distribution.number % interval != 0)
    old = delete(Distribution).where(Distribution.trial_id == trial_id, *given_up)
    session.execute(old.execution_options(synchronize_session=False))
    rows = [
        {"trial_id": trial_id, "number": one.number, "data": one.model_dump(mode="json")["tensors"]}
        for one in new
        if one.number % interval == 0 or one.number == newest
    ]
    _upsert(session, Distribution, rows)


def _desired(session: Session, lease: Lease) -> Desired:
    """The desired state of the trial, if the lease is valid."""
    desired = session.scalars(select(Trial.desired).where(lease.holds)).one_or_none()
    if desired is None:
        raise LeaseLost(lease)
    return Desired(desired)


def _entries(batch: RecordedBatch) -> list[StepRecord | TensorFile | LogRecord]:
    """What is recorded, in the order in which it happened: a step, then its snapshot, then its log lines."""
    ranked: list[tuple[int, int, StepRecord | TensorFile | LogRecord]] = [
        *((step.number, 0, step) for step in batch.steps),
        *((snapshot.step, 1, snapshot) for snapshot in batch.snapshots),
        *((log.step, 2, log) for log in batch.logs),
    ]
    return [entry for _, _, entry in sorted(ranked, key=lambda item: item[:2])]


def _event(entry: TensorFile | LogRecord) -> dict[str, Any]:
    if isinstance(entry, LogRecord):
        data = {"step": entry.step, "level": entry.level, "text": entry.text}
        return {"type": EventType.log.value, "data": data}
    return {"type": EventType.snapshot.value, "data": {"step": entry.step}}


def _progress(session: Session, batch: RecordedBatch, trial_id: UUID) -> dict[str, Any]:
    """The new values of the trial's row, which are written by the statement that checks the lease."""
    values: dict[str, Any] = {}
    if batch.steps:
        ranking = rankings.of_trial(session, trial_id)
        values["step"] = batch.steps[-1].number
        values |= _course(session, batch, trial_id, ranking)
        if evaluated := [step for step in batch.steps if step.value is not None]:
            values["value"] = evaluated[-1].value_of(ranking.metric)
        if best := ranking.best(evaluated, lambda step: step.value_of(ranking.metric)):
            value = best.value_of(ranking.metric)
            # Ranking.is_better, in SQL.
            lower = ranking.direction == "minimize"
            better = or_(Trial.best_value.is_(None), Trial.best_value > value if lower else Trial.best_value < value)
            values["best_value"] = case((better, value), else_=Trial.best_value)
            values["best_step"] = case((better, best.number), else_=Trial.best_step)
    if batch.seconds is not None:
        values["seconds"] = batch.seconds
    if batch.hyperparameters is not None:
        values["hyperparameters"] = [info.model_dump(mode="json") for info in batch.hyperparameters]
    if batch.checkpoints:
        newest = select(func.coalesce(func.max(Checkpoint.step), -1)).where(Checkpoint.trial_id == trial_id)
        is_newer = batch.checkpoints[-1].step > newest.scalar_subquery()
        values |= {name: case((is_newer, 0), else_=getattr(Trial, name)) for name in FRESH_BUDGETS}
    return values


def _course(session: Session, batch: RecordedBatch, trial_id: UUID, ranking: Ranking) -> dict[str, Any]:
    """What is folded over the steps, with the new ones. The trial's row stays locked, so that nobody adds meanwhile."""
    columns = select(Trial.evidence, Trial.sparkline, Trial.pace, Trial.step, Trial.attempt)
    row = session.execute(columns.where(Trial.id == trial_id).with_for_update(key_share=True)).one_or_none()
    if row is None:
        return {}  # the trial was deleted, and nothing will be written
    if row.evidence is not None and row.sparkline is not None:
        course = Evidence.from_json(row.evidence), Sparkline.from_json(row.sparkline)
    else:  # no step came before, or an earlier version recorded them
        course = rankings.recorded_course(session, trial_id) if row.step else (Evidence(), Sparkline())
    evidence, sparkline = rankings.course_after(*course, batch.steps, ranking)
    values = {"evidence": evidence.json(), "sparkline": sparkline.json()}
    if batch.seconds is not None:
        before = Pace() if row.pace is None else Pace.from_json(row.pace)
        values["pace"] = before.after(row.attempt, batch.steps[-1].number, batch.seconds).json()
    return values


def _store(session: Session, trial_id: UUID, tensors: list[TensorFile]) -> dict[bytes, UUID]:
    """Store the bytes as blobs of the study's owner: SHA-256 → blob."""
    if not tensors:
        return {}
    owner = session.scalars(select(Study.owner_id).join(Trial).where(Trial.id == trial_id)).one()
    by_digest = {file.digest: file.data for file in tensors}
    # Always in the same order, so that two trials of one owner that store the same blobs do not deadlock.
    return {key: blobs.store(session, owner, by_digest[key]).id for key in sorted(by_digest)}


def _row(trial_id: UUID, stored: dict[bytes, UUID], file: TensorFile) -> dict[str, Any]:
    return {"trial_id": trial_id, "step": file.step, "blob_id": stored[file.digest]}


def _upsert(session: Session, table: type[Base], rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        # A step can be repeated: step 0 with each attempt, and the last one as both "due" and "final".
        key = [column.name for column in table.__table__.primary_key]
        new = insert(table).values([*{tuple(row[name] for name in key): row for row in rows}.values()])
        changed = {name: new.excluded[name] for name in rows[0] if name not in key}
        session.execute(new.on_conflict_do_update(index_elements=key, set_=changed))


def _delete_replaced(session: Session, trial_id: UUID, batch: RecordedBatch) -> None:
    """Delete replaced snapshots, and old checkpoints and results, with the blobs that only they refer to."""
    blob_ids: list[UUID] = []
    replaced = {step for s in batch.snapshots for step in s.replaces} - {s.step for s in batch.snapshots}
    if replaced:
        blob_ids += _delete(session, Snapshot, trial_id, Snapshot.step.in_(replaced))
    checkpoints = select(Checkpoint.step).where(Checkpoint.trial_id == trial_id).order_by(Checkpoint.step.desc())
    if batch.checkpoints:
        blob_ids += _delete(session, Checkpoint, trial_id, Checkpoint.step.not_in(checkpoints.limit(CHECKPOINTS_KEPT)))
    if batch.results or batch.checkpoints:
        newest = select(func.max(Result.step)).where(Result.trial_id == trial_id)
        at_checkpoint = newest.where(Result.step <= checkpoints.limit(1).scalar_subquery())
        kept = (newest.scalar_subquery(), func.coalesce(at_checkpoint.scalar_subquery(), 0))
        blob_ids += _delete(session, Result, trial_id, Result.step.not_in(kept))
    garbage_collection.delete_unreferenced(session, blob_ids)


def _delete(
    session: Session,
    table: type[Snapshot] | type[Checkpoint] | type[Result],
    trial_id: UUID,
    where: ColumnElement[bool],
) -> Sequence[UUID]:
    """Delete rows of a trial, and return the blobs that they referred to."""
    old = delete(table).where(table.trial_id == trial_id, where).returning(table.blob_id)
    return session.scalars(old.execution_options(synchronize_session=False)).all()
