"""Shows whether trials' hypergradients are true: submits trainings under changed hyperparameters, and compares."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.orm import Session

from nestor import schemas
from nestor.results.trainings import retrainings
from nestor_server.scheduling import leases
from nestor_server.services.access.tokens import Caller
from nestor_server.services.trials import actions, queries, trainings


def create(session: Session, me: Caller, trial_id: UUID, asked: schemas.Retrain) -> schemas.TruthReport:
    """Submit the trainings that are missing. Those that run or are complete already are not repeated.

    Raises:
        TrialNotFound, HyperparametersNotFound
        NotFinished, NothingTuned, NothingToConfirm: as `retrainings.missing_runs`.
        QuotaExceeded
    """
    row = queries.find(session, me.user_id, trial_id)
    leases.lock(session, row)  # two requests at the same time submit each training once
    trial = queries.describe(row)
    present = [run for run, _ in _runs(session, trial, asked.size)]
    for nudge in retrainings.missing_runs(trial, asked, present):
        actions.create(session, me, trial.study_id, retrainings.specification(trial, nudge))
    return _report(session, trial, asked.size)


def get(session: Session, owner_id: UUID, trial_id: UUID, size: float) -> schemas.TruthReport:
    """What the trainings of this size have found so far.

    Raises:
        TrialNotFound
        NothingToConfirm: no step was evaluated.
    """
    return _report(session, queries.describe(queries.find(session, owner_id, trial_id)), size)


def _report(session: Session, trial: schemas.Trial, size: float) -> schemas.TruthReport:
    return retrainings.report(trial, size, _runs(session, trial, size))


def _runs(session: Session, trial: schemas.Trial, size: float) -> list[trainings.TrialAndLast]:
    return [(run, last) for run, last in trainings.of_trial(session, trial) if retrainings.is_run_of(run, trial, size)]
