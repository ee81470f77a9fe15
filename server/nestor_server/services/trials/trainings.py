"""Trials under fixed hyperparameters of another trial, which judge it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from nestor import schemas
from nestor_server.models import Step, Trial
from nestor_server.services.trials import queries

TrialAndLast = tuple[schemas.Trial, schemas.Step | None]  # a trial with its last step


def of_trial(session: Session, trial: schemas.Trial) -> list[TrialAndLast]:
    """Those of the same study that start from `trial`."""
    found = session.execute(
        select(Trial, Step.data)
        .outerjoin(Step, and_(Step.trial_id == Trial.id, Step.number == Trial.step))
        .where(Trial.starts_from == str(trial.id), ~Trial.tunes)  # few; PostgreSQL might read the study for its id
    ).all()
    return [(queries.describe(run), step(last)) for run, last in found if run.study_id == trial.study_id]


def step(data: dict[str, Any] | None) -> schemas.Step | None:
    """A step from what was recorded of it."""
    return None if data is None else schemas.Step.model_validate(data)
