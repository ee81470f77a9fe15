"""Confirms trials: submits trainings under their best hyperparameters, and reports what these found."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.results import confirmations
from nestor_server.models import Step, Trial
from nestor_server.scheduling import leases
from nestor_server.services.access.tokens import Caller
from nestor_server.services.trials import actions, queries


def create(session: Session, me: Caller, trial_id: UUID, asked: schemas.Confirm) -> schemas.Confirmation:
    """Submit the trainings that are missing. Those that run or are complete already are not repeated.

    Raises:
        TrialNotFound, HyperparametersNotFound
        NotFinished, NothingTuned, NothingToConfirm: as `confirmations.missing_runs`.
    """
    row = queries.find(session, me.user_id, trial_id)
    leases.lock(session, row)  # two requests at the same time submit each training once
    trial = queries.describe(row)
    present = [run for run, _ in _runs(session, trial)]
    for run in confirmations.missing_runs(trial, asked, present):
        actions.create(session, me, trial.study_id, confirmations.specification(trial, run))
    return _describe(session, trial)


def get(session: Session, owner_id: UUID, trial_id: UUID) -> schemas.Confirmation:
    """The trial's own numbers, and those of its trainings.

    Raises:
        TrialNotFound
        NothingToConfirm: no step was evaluated.
    """
    return _describe(session, queries.describe(queries.find(session, owner_id, trial_id)))


def _describe(session: Session, trial: schemas.Trial) -> schemas.Confirmation:
    best = session.scalar(select(Step.data).where(Step.trial_id == trial.id, Step.number == trial.best_step))
    return confirmations.confirmation(trial, _step(best), _runs(session, trial))


def _runs(session: Session, trial: schemas.Trial) -> list[tuple[schemas.Trial, schemas.Step | None]]:
    """The trainings, each with its last step."""
    found = session.execute(
        select(Trial, Step.data)
        .outerjoin(Step, and_(Step.trial_id == Trial.id, Step.number == Trial.step))
        .where(Trial.starts_from == str(trial.id), ~Trial.tunes)  # few; PostgreSQL might read the study for its id
    ).all()
    described = ((queries.describe(run), _step(last)) for run, last in found if run.study_id == trial.study_id)
    return [(run, last) for run, last in described if confirmations.is_run_of(run, trial)]


def _step(data: dict[str, Any] | None) -> schemas.Step | None:
    return None if data is None else schemas.Step.model_validate(data)
