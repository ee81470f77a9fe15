"""Confirms trials: submits trainings under their best hyperparameters, and reports what these found."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.results.trainings import confirmations
from nestor_server.models import Step
from nestor_server.scheduling import leases
from nestor_server.services.access.tokens import Caller
from nestor_server.services.trials import actions, queries, trainings


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
    return confirmations.confirmation(trial, trainings.step(best), _runs(session, trial))


def _runs(session: Session, trial: schemas.Trial) -> list[trainings.TrialAndLast]:
    return [(run, last) for run, last in trainings.of_trial(session, trial) if confirmations.is_run_of(run, trial)]
