"""Confirms trials: submits trainings under their best hyperparameters, and reports what these found."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.results import confirmations
from nestor_server.models import Step, Trial
from nestor_server.scheduling import leases
from nestor_server.services.tokens import Caller
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
    for run in confirmations.missing_runs(trial, asked, _runs(session, trial)):
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
    runs = [(run, _step(session, run.id, run.step)) for run in _runs(session, trial)]
    return confirmations.confirmation(trial, _step(session, trial.id, trial.best_step), runs)


def _runs(session: Session, trial: schemas.Trial) -> list[schemas.Trial]:
    start = Trial.spec["warm_start"]["trial"].as_string() == str(trial.id)
    found = session.scalars(select(Trial).where(Trial.study_id == trial.study_id, start)).all()
    return [run for run in map(queries.describe, found) if confirmations.is_run_of(run, trial)]


def _step(session: Session, trial_id: UUID, number: int | None) -> schemas.Step | None:
    data = session.scalar(select(Step.data).where(Step.trial_id == trial_id, Step.number == number))
    return None if data is None else schemas.Step.model_validate(data)
