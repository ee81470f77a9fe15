"""The options of a trial, and what it tunes in short."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.results.tables import option_table
from nestor.schemas import EntryPointProblem, PresetProblem, ProblemSummary, TrialSpec
from nestor_server.models import Blob, Program, Trial
from nestor_server.services.problems import architectures
from nestor_server.services.problems.architectures import Architecture
from nestor_server.services.trials import queries
from nestor_server.storage import tensor_blobs


def get(session: Session, owner_id: UUID, trial_id: UUID) -> schemas.TrialOptions:
    """All options of the trial, beside their defaults.

    Raises:
        TrialNotFound
    """
    row = queries.read(session, owner_id, trial_id, Trial.spec, Trial.hyperparameters)
    spec = TrialSpec.model_validate(row.spec)
    return schemas.TrialOptions(problem=_problem(session, spec, row.hyperparameters), items=option_table(spec))


def _problem(session: Session, spec: TrialSpec, hyperparameters: Sequence[dict[str, Any]] | None) -> ProblemSummary:
    tuned = None if hyperparameters is None else sum(math.prod(info["shape"]) for info in hyperparameters)
    problem = spec.problem
    if isinstance(problem, PresetProblem):
        parameters = _parameters(architectures.of_preset(problem.preset))
        return ProblemSummary(kind="preset", name=problem.preset.dataset, parameters=parameters, hyperparameters=tuned)
    if isinstance(problem, EntryPointProblem):
        return ProblemSummary(kind="entry_point", name=problem.entry_point, parameters=None, hyperparameters=tuned)
    program, tensors = session.execute(
        select(Program, Blob)
        .join(Blob, (Blob.owner_id == Program.owner_id) & (Blob.digest == Program.tensors))
        .where(Program.id == problem.program)
    ).one()
    parameters = _parameters(architectures.of_program(tensor_blobs.header(session, tensors)))
    return ProblemSummary(kind="program", name=program.graphs, parameters=parameters, hyperparameters=tuned)


def _parameters(architecture: Architecture) -> int:
    return sum(map(math.prod, architecture["params"].values()))
