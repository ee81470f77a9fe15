"""The running workers, as users see them, and how an operator takes one out of service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, and_, extract, func, or_, select, true, update
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.errors import WorkerNotFound
from nestor.schemas import EntryPointInfo, WorkerStatus
from nestor_server.database import settings_of
from nestor_server.models import Study, Trial, Worker
from nestor_server.scheduling import fair_share


def page(session: Session, caller_id: UUID) -> schemas.Workers:
    """The workers whose heartbeat is recent. Of what they run, a user sees only trials of their own."""
    queue = _Queue(session)
    return schemas.Workers(items=_listed(session, caller_id, queue, _is_alive(session)), queued=queue.total)


def load(session: Session) -> tuple[int, int]:
    """How many workers run, and how many trials of all users wait for one."""
    return session.scalars(select(func.count()).where(_is_alive(session))).one(), _Queue(session).total


def drain(session: Session, caller_id: UUID, worker_id: str, *, drains: bool) -> schemas.Workers:
    """Let a worker process hand its trials over and take no more, or take trials again. Repetitions change nothing.

    Args:
        worker_id: of the process, or of one of its slots, which then names the process.

    Returns:
        The slots of the process.

    Raises:
        WorkerNotFound: no running worker has this id.
    """
    process = worker_id.partition("/")[0]
    ours = and_(or_(Worker.id == process, Worker.id.startswith(f"{process}/", autoescape=True)), _is_alive(session))
    since = func.coalesce(Worker.draining_since, func.now()) if drains else None
    changed = update(Worker).where(ours).values(draining_since=since).returning(Worker.id)
    slots = session.scalars(changed.execution_options(synchronize_session=False)).all()
    if not slots:
        raise WorkerNotFound(worker=worker_id)
    if drains:
        fair_share.vacate(session)
    else:
        fair_share.let_run(session, slots)
    queue = _Queue(session)
    return schemas.Workers(items=_listed(session, caller_id, queue, ours), queued=queue.total)


def _is_alive(session: Session) -> ColumnElement[bool]:
    return Worker.heartbeat_at > func.now() - timedelta(seconds=settings_of(session).lease_seconds)


class _Queue:
    """The waiting trials, counted by what they need of a worker. An index alone tells."""

    def __init__(self, session: Session) -> None:
        waiting = select(Trial.devices, Trial.entry_point, func.count()).where(Trial.is_queued)
        self._counts = session.execute(waiting.group_by(Trial.devices, Trial.entry_point)).all()
        self.total: int = sum(n for *_, n in self._counts)

    def behind(self, worker: Worker) -> int:
        """The trials that this worker could run, as `leases.claim_next` decides, except for params of entry points."""
        n_devices = worker.device.count(",") + 1
        offers = {
            name for name, info in worker.entry_points.items() if EntryPointInfo.model_validate(info).error is None
        }
        return sum(
            n for devices, point, n in self._counts if devices <= n_devices and (point is None or point in offers)
        )


def _listed(session: Session, caller_id: UUID, queue: _Queue, where: ColumnElement[bool]) -> tuple[schemas.Worker, ...]:
    # One look by primary key for each worker. Without OFFSET, PostgreSQL may read all trials of the caller for a join.
    own = (
        select(Trial.number, Trial.step, Trial.n_steps, Study.id.label("study_id"), Study.name)
        .join(Study, Study.id == Trial.study_id)
        .where(Trial.id == Worker.trial_id, Study.owner_id == caller_id)
        .offset(0)
        .lateral("own")
    )
    age = extract("epoch", func.now() - Worker.heartbeat_at)
    rows = session.execute(
        select(Worker, age.label("age"), own).join(own, true(), isouter=True).where(where).order_by(Worker.id)
    ).all()
    n_slots, n_busy = _count(row[0] for row in rows)
    return tuple(_describe(row, n_slots, n_busy, queue) for row in rows)


def _count(workers: Iterable[Worker]) -> tuple[Counter[str], Counter[str]]:
    slots, busy = Counter[str](), Counter[str]()
    for worker in workers:
        slots[_process(worker)] += 1
        busy[_process(worker)] += worker.trial_id is not None
    return slots, busy


def _process(worker: Worker) -> str:
    return worker.id.partition("/")[0]


def _describe(row: Row[Any], n_slots: Counter[str], n_busy: Counter[str], queue: _Queue) -> schemas.Worker:
    worker: Worker = row[0]
    busy, drains, process = worker.trial_id is not None, worker.draining_since is not None, _process(worker)
    is_own = row.number is not None
    return schemas.Worker(
        id=worker.id,
        process=process,
        slots=n_slots[process],
        busy_slots=n_busy[process],
        status=_STATUS[busy, drains],
        device=worker.device,
        versions=worker.versions,
        started_at=worker.started_at,
        heartbeat_at=worker.heartbeat_at,
        heartbeat_age_seconds=max(0.0, float(row.age)),
        draining_since=worker.draining_since,
        busy=busy,
        trial=worker.trial_id if is_own else None,
        study_id=row.study_id,
        study=row.name,
        number=row.number,
        step=row.step,
        n_steps=row.n_steps,
        queue=queue.behind(worker),
    )


_STATUS = {
    (False, False): WorkerStatus.idle,
    (True, False): WorkerStatus.busy,
    (True, True): WorkerStatus.draining,
    (False, True): WorkerStatus.drained,
}
