"""/trials/{id}/hyperparameters and /trials/{id}/checkpoint"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from nestor import schemas
from nestor_server.http import files
from nestor_server.http.transactions import Reader, TransactionRoute, Tx
from nestor_server.routes.parameters import After, CheckpointStep, StepNumber
from nestor_server.services.records import hyperparameters, summaries
from nestor_server.services.records.hyperparameters import Format
from nestor_server.services.trials import warm_starts

router = APIRouter(route_class=TransactionRoute, tags=["hyperparameters"])

MaxPoints = Annotated[
    int,
    Query(
        ge=schemas.FEWEST_POINTS,
        le=schemas.MOST_POINTS,
        description="the most steps that are returned. Of more, `columns` has the first, the last, and of equal "
        "intervals those with the minimum and the maximum of each column; `distributions` has steps at equal distances",
    ),
]


@router.get("/trials/{trial_id}/hyperparameters", response_model=schemas.Hyperparameters)
def describe(trial_id: UUID, request: Request, caller: Reader, session: Tx) -> Response:
    """Names, shapes and types, and the steps that have a snapshot."""
    return files.versioned_response(request, hyperparameters.describe(session, caller.user_id, trial_id))


@router.get("/trials/{trial_id}/hyperparameters.safetensors", response_class=Response)
@router.head("/trials/{trial_id}/hyperparameters.safetensors", include_in_schema=False)
def snapshot(trial_id: UUID, request: Request, caller: Reader, session: Tx, step: StepNumber = None) -> Response:
    """All hyperparameters at one step."""
    content = hyperparameters.snapshot(session, caller.user_id, trial_id, step)
    return files.file_response(request, content, name="hyperparameters.safetensors", immutable=step is not None)


@router.get("/trials/{trial_id}/hyperparameters/{name}", response_class=Response)
@router.head("/trials/{trial_id}/hyperparameters/{name}", include_in_schema=False)
def tensor(
    trial_id: UUID,
    name: schemas.TensorName,
    request: Request,
    caller: Reader,
    session: Tx,
    step: StepNumber = None,
    format: Format = "safetensors",
) -> Response:
    """One hyperparameter at one step, as a file of its own."""
    content = hyperparameters.tensor(session, caller.user_id, trial_id, name, step, format)
    return files.file_response(request, content, name=f"{name}.{format}", immutable=step is not None)


@router.get("/trials/{trial_id}/hyperparameters/{name}/summary", response_model=schemas.HyperparameterSummary)
def summary(
    trial_id: UUID,
    name: schemas.TensorName,
    request: Request,
    caller: Reader,
    session: Tx,
    after: After = 0,
    max_points: MaxPoints = schemas.DEFAULT_POINTS,
) -> Response:
    """The course of one hyperparameter: statistics, quantiles and histograms of its entries over the steps.

    Of a long trial it has the steps that a plot needs. An answer has at most 100,000 steps; `next_after` continues it.
    """
    content = summaries.summary(session, caller.user_id, trial_id, name, after=after, max_points=max_points)
    return files.versioned_response(request, content)


@router.get("/trials/{trial_id}/checkpoint.safetensors", response_class=Response)
@router.head("/trials/{trial_id}/checkpoint.safetensors", include_in_schema=False)
def checkpoint(
    trial_id: UUID,
    request: Request,
    caller: Reader,
    session: Tx,
    step: CheckpointStep = "latest",
) -> Response:
    """The state of a trial at one of its newest two checkpoints, or the result of its best step.

    Trained parameters, buffers and hyperparameters are named `params.<name>`, `buffers.<name>` and `hparams.<name>`.
    A checkpoint has more tensors, with which a worker continues exactly.
    """
    content = warm_starts.checkpoint(session, caller.user_id, trial_id, step)
    # The checkpoint of the best step is replaced by its result, which is smaller, when there are two newer ones.
    return files.file_response(request, content, name="checkpoint.safetensors", immutable=False)
