"""The running workers, as users see them."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from nestor import schemas
from nestor_server.database import settings_of
from nestor_server.models import Study, Trial, Worker


def page(session: Session, caller_id: UUID) -> schemas.Workers:
    """The workers whose heartbeat is recent. Of what they run, a user sees only trials of their own."""
    alive = Worker.heartbeat_at > func.now() - timedelta(seconds=settings_of(session).lease_seconds)
    # One look by primary key for each worker. PostgreSQL may answer EXISTS by reading all trials of the caller.
    owner = select(Study.owner_id).join(Trial).where(Trial.id == Worker.trial_id).scalar_subquery()
    rows = session.execute(select(Worker, owner == caller_id).where(alive).order_by(Worker.id)).all()
    queued = session.scalars(select(func.count()).select_from(Trial).where(Trial.is_queued)).one()
    return schemas.Workers(items=tuple(_describe(worker, is_own=bool(own)) for worker, own in rows), queued=queued)


def _describe(worker: Worker, *, is_own: bool) -> schemas.Worker:
    return schemas.Worker(
        id=worker.id,
        device=worker.device,
        versions=worker.versions,
        heartbeat_at=worker.heartbeat_at,
        busy=worker.trial_id is not None,
        trial=worker.trial_id if is_own else None,
    )
