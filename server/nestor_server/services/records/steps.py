"""Recorded steps as columns, for plots and data frames."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.errors import StepColumnUnknown
from nestor_server.models import Step
from nestor_server.services.records.hyperparameters import in_declared_order
from nestor_server.services.trials import queries as trial_queries

COLUMNS = (*schemas.Step.model_fields, "recorded_at")
MAX_LIMIT = 100_000


def columns(
    session: Session,
    owner_id: UUID,
    trial_id: UUID,
    *,
    names: list[str] | None = None,
    after: int = 0,
    limit: int = 10_000,
) -> schemas.StepColumns:
    """Up to `limit` steps whose number is above `after`, in order.

    Raises:
        TrialNotFound
        InvalidInput: a name is not in `COLUMNS`.
    """
    # Read before the steps. So a response may contain more than its `seq` says, and the next poll finds nothing new.
    # In the other order, the next poll could miss steps.
    trial = trial_queries.find(session, owner_id, trial_id)
    seq = trial.seq
    names = list(dict.fromkeys(names or COLUMNS))
    if unknown := [name for name in names if name not in COLUMNS]:
        raise StepColumnUnknown(column=unknown[0], columns=list(COLUMNS))
    wanted = [Step.recorded_at if name == "recorded_at" else Step.data[name] for name in names]
    rows = session.execute(
        select(*wanted).where(Step.trial_id == trial_id, Step.number > after).order_by(Step.number).limit(limit)
    ).all()
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    if "hyperparameters" in columns:
        summaries = columns["hyperparameters"]
        columns["hyperparameters"] = [in_declared_order(trial.hyperparameters, one or {}) for one in summaries]
    return schemas.StepColumns(columns=columns, seq=seq)
