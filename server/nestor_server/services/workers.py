"""The running workers, as users see them."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.schemas import State
from nestor_server.database import settings_of
from nestor_server.models import Study, Trial, Worker


def page(session: Session, caller_id: UUID) -> schemas.Workers:
    """The workers whose heartbeat is recent. Of what they run, a user sees only trials of their own."""
    alive = Worker.heartbeat_at > func.now() - timedelta(seconds=settings_of(session).lease_seconds)
    of_caller = select(Trial.id).join(Study, Study.id == Trial.study_id).where(Study.owner_id == caller_id)
    is_own = of_caller.where(Trial.id == Worker.trial_id).exists()
    rows = session.execute(select(Worker, is_own).where(alive).order_by(Worker.id)).all()
    queued = session.scalars(select(func.count()).select_from(Trial).where(Trial.state == State.queued.value)).one()
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
