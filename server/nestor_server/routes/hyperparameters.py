"""/trials/{id}/hyperparameters, /trials/{id}/courses, /trials/{id}/checkpoint and /trials/{id}/rater"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from nestor import schemas
from nestor_server.http import files
from nestor_server.http.openapi.responses import FILE
from nestor_server.http.transactions import Reader, TransactionRoute, Tx
from nestor_server.routes.parameters import After, CheckpointStep, CursorOfOneOrder, StepNumber
from nestor_server.services.records import courses, hyperparameters, raters, summaries
from nestor_server.services.records.hyperparameters import Format
from nestor_server.services.trials import warm_starts

Part = Annotated[
    str | None,
    Query(
        max_length=300,
        description="indices and ranges of the leading dimensions, as in NumPy but without steps; default: all",
        examples=["10:20", "3,0:5"],
    ),
]

router = APIRouter(route_class=TransactionRoute, tags=["hyperparameters"])

FileFormat = Annotated[Format, Query(description="of the file: safetensors, which has a name, or NumPy's npy")]
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
def get_hyperparameters(trial_id: UUID, request: Request, caller: Reader, session: Tx) -> Response:
    """Names, shapes and types, and the steps that have a snapshot."""
    return files.versioned_response(request, hyperparameters.describe(session, caller.user_id, trial_id))


@router.get("/trials/{trial_id}/hyperparameters.safetensors", **FILE)
@router.head("/trials/{trial_id}/hyperparameters.safetensors", include_in_schema=False)
def download_hyperparameters(
    trial_id: UUID, request: Request, caller: Reader, session: Tx, step: StepNumber = None
) -> Response:
    """All hyperparameters at one step."""
    found = hyperparameters.snapshot(session, caller.user_id, trial_id, step)
    name = "hyperparameters.safetensors"
    return files.file_response(request, found.content, name=name, immutable=found.is_settled)


@router.get("/trials/{trial_id}/hyperparameters/{name}", **FILE)
@router.head("/trials/{trial_id}/hyperparameters/{name}", include_in_schema=False)
def download_hyperparameter(
    trial_id: UUID,
    name: schemas.TensorName,
    request: Request,
    caller: Reader,
    session: Tx,
    step: StepNumber = None,
    format: FileFormat = "safetensors",
    slice: Part = None,
) -> Response:
    """One hyperparameter at one step, or a part of it, as a file of its own.

    If `step` is given and a checkpoint follows it, the response is immutable. Later steps may be computed again.
    """
    found = hyperparameters.tensor(session, caller.user_id, trial_id, name, step=step, format=format, part=slice)
    return files.file_response(request, found.content, name=f"{name}.{format}", immutable=found.is_settled)


@router.get("/trials/{trial_id}/hyperparameters/{name}/summary", response_model=schemas.HyperparameterSummary)
def get_hyperparameter_summary(
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


CoursePoints = Annotated[
    int,
    Query(
        ge=schemas.FEWEST_COURSE_POINTS,
        le=schemas.MOST_COURSE_POINTS,
        description="the most steps of a course; they are at equal distances, besides the last. All courses of a page "
        f"have at most {courses.MAX_POINTS:,}",
    ),
]
CoursesLimit = Annotated[int, Query(ge=1, le=schemas.MOST_COURSES, description="the most hyperparameters of a page")]


@router.get("/trials/{trial_id}/courses", response_model=schemas.HyperparameterCourses)
def list_courses(
    trial_id: UUID,
    request: Request,
    caller: Reader,
    session: Tx,
    max_points: CoursePoints = schemas.DEFAULT_COURSE_POINTS,
    limit: CoursesLimit = schemas.DEFAULT_COURSES,
    cursor: CursorOfOneOrder = None,
) -> Response:
    """Every hyperparameter in one line: its statistics, its share of the hypergradient, and its course in few steps.

    Those with the largest share come first. All pages have the order of the step that was the newest at the first one.
    """
    content = courses.page(session, caller.user_id, trial_id, max_points=max_points, limit=limit, cursor=cursor)
    return files.versioned_response(request, content)


@router.get("/trials/{trial_id}/checkpoint.safetensors", **FILE)
@router.head("/trials/{trial_id}/checkpoint.safetensors", include_in_schema=False)
def download_checkpoint(
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


RaterName = Annotated[
    schemas.TensorName,
    Query(description="the name of the problem's `LossReweighting`", examples=["loss_reweighting"]),
]


@router.get("/trials/{trial_id}/rater.safetensors", **FILE)
@router.head("/trials/{trial_id}/rater.safetensors", include_in_schema=False)
def download_rater(
    trial_id: UUID,
    request: Request,
    caller: Reader,
    session: Tx,
    step: CheckpointStep = "best",
    name: RaterName = "loss_reweighting",
) -> Response:
    """The network that `LossReweighting` has tuned, as the `state_dict` of its class; without buffers and constants.

    Its output, made positive by the function of the problem (by default the sigmoid), is the weight of an example.
    """
    content = raters.rater(session, caller.user_id, trial_id, name, step)
    # Its ETag is that of the bytes. A step after the newest checkpoint can be computed again, so it may still change.
    return files.file_response(request, content, name="rater.safetensors", immutable=False)
