"""What goes on in all studies of a user, in a few counts.

Of each study, a row is read, and of the trials that failed at most `MAX_FAILED`. All else is counted from indexes.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select, true
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.schemas import State
from nestor_server.models import Study, Trial
from nestor_server.services import workers

RECENT = timedelta(hours=24)
MAX_FAILED = 1_000  # of each study, the newest: no index says when they failed


def of_user(session: Session, owner_id: UUID) -> schemas.Activity:
    """What goes on in the studies of this user that are not deleted."""
    # OFFSET 0 keeps PostgreSQL from joining other than study by study, each by an index.
    own = select(Study.id).where(Study.owner_id == owner_id, Study.deleted_at.is_(None)).offset(0).subquery()
    states = select(Trial.state, func.count().label("n")).where(Trial.study_id == own.c.id).group_by(Trial.state)
    counted = states.offset(0).lateral()
    total = select(counted.c.state, func.sum(counted.c.n)).select_from(own).join(counted, true())
    failed = (
        select(Trial.finished_at)
        .where(Trial.study_id == own.c.id, Trial.state == State.failed.value)
        .order_by(Trial.number.desc())
        .limit(MAX_FAILED)
        .lateral()
    )
    recently = select(func.count()).select_from(own).join(failed, true())
    n_workers, n_queued = workers.load(session)
    return schemas.Activity(
        studies=session.scalars(select(func.count()).select_from(own)).one(),
        trial_counts={state: int(n) for state, n in session.execute(total.group_by(counted.c.state))},
        failed_recently=session.scalars(recently.where(failed.c.finished_at > func.now() - RECENT)).one(),
        workers=n_workers,
        queued=n_queued,
    )
