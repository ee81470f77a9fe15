"""/studies/{id}/trials and /trials"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.results.tables import StepTable, TrialAndLast, TrialTable
from nestor.schemas import API
from nestor_server.http import files
from nestor_server.http.csv_files import CSV, csv_response
from nestor_server.http.idempotency import Idempotency, PostResult
from nestor_server.http.openapi.responses import NOT_ALLOWED_NOW, conflict, text
from nestor_server.http.transactions import Reader, TransactionRoute, Tx, Writer
from nestor_server.models import Trial
from nestor_server.routes.parameters import After, Cursor, CursorOfOneOrder, IfMatch, Limit, Order, States, Tags, Text
from nestor_server.services import studies
from nestor_server.services.lists import paging
from nestor_server.services.records import exports, logs
from nestor_server.services.trials import actions, attempts, confirmations, options, queries, retrainings

router = APIRouter(route_class=TransactionRoute, tags=["trials"])

AT_ONCE, AS_USUAL, RETRAIN = schemas.TrialEnd(), schemas.Confirm(), schemas.Retrain()  # without a body


@router.post("/studies/{study_id}/trials", status_code=201, response_model=schemas.Trial)
def create_trial(
    study_id: UUID, new: schemas.TrialCreate, caller: Writer, session: Tx, idempotency: Idempotency
) -> Response:
    """Queue a trial: one tuning run of a problem."""

    def create() -> PostResult:
        trial = actions.create(session, caller, study_id, new, note=new.note)
        return PostResult(trial, f"{API}/trials/{trial.id}")

    return idempotency.respond(session, caller, create)


@router.get("/studies/{study_id}/trials", response_model=schemas.TrialPage)
def list_trials(
    study_id: UUID,
    request: Request,
    caller: Reader,
    session: Tx,
    state: States = (),
    number: Annotated[
        int | None, Query(ge=0, le=2**31 - 1, description="only the trial of this number", examples=[3])
    ] = None,
    tunes: Annotated[
        bool | None, Query(description="true: only trials that tune; false: only those under fixed hyperparameters")
    ] = None,
    tag: Tags = (),
    q: Text = None,
    sort: Annotated[
        schemas.TrialSort, Query(description="what they are sorted by; `number` is the order of their creation")
    ] = schemas.TrialSort.number,
    order: Order = schemas.SortOrder.desc,
    cursor: Cursor = None,
    limit: Limit = paging.DEFAULT_LIMIT,
) -> Response:
    """The trials of a study, newest first. `q` searches tags and notes.

    A trial whose value changes while you read page after page may be missed, or be read twice. That is so with all
    sorts but the one by `number`.
    """
    content = queries.page(
        session,
        caller.user_id,
        study_id,
        states=state,
        number=number,
        tunes=tunes,
        tags=tag,
        text=q,
        sort=sort,
        order=order,
        cursor=cursor,
        limit=limit,
    )
    return files.versioned_response(request, content)


CSV_FILE = text("One row for each, below a heading.", CSV, "Content-Disposition")


@router.get("/studies/{study_id}/trials.csv", response_class=Response, responses=CSV_FILE)
def get_trials_csv(
    study_id: UUID,
    request: Request,
    caller: Reader,
    session: Tx,
    config: Annotated[bool, Query(description="have all options as columns, not only those that differ")] = False,
    metrics: Annotated[bool, Query(description="have the metrics of the last step as columns")] = True,
) -> Response:
    """All trials of a study, by number: course, user attributes, options that differ, and the last metrics.

    The columns are those of `study.trials_dataframe()`. Nested values are JSON, times are as in ISO 8601, and
    `duration` is in seconds. A text that begins with =, +, - or @ has an apostrophe in front, so that spreadsheets
    compute nothing.
    """
    studies.find(session, caller.user_id, study_id)

    def read(session: Session, after: int | None) -> exports.Piece[TrialAndLast]:
        return exports.trials(session, caller.user_id, study_id, after, metrics=metrics)

    return csv_response(request, TrialTable(every=config), read, name="trials.csv")


@router.get("/trials/{trial_id}/steps.csv", response_class=Response, responses=CSV_FILE)
def get_steps_csv(trial_id: UUID, request: Request, caller: Reader, session: Tx) -> Response:
    """All steps of a trial, as `nestor export --csv` writes them: nested values are JSON."""
    name = f"trial-{queries.read(session, caller.user_id, trial_id, Trial.number).number}.csv"

    def read(session: Session, after: int | None) -> exports.Piece[schemas.Step]:
        return exports.steps(session, caller.user_id, trial_id, after)

    return csv_response(request, StepTable(), read, name=name)


@router.get("/trials/{trial_id}", response_model=schemas.Trial)
def get_trial(trial_id: UUID, request: Request, caller: Reader, session: Tx) -> Response:
    """One trial. Its ETag changes with each step and each change, so polling mostly gets a 304."""
    return files.versioned_response(request, queries.get(session, caller.user_id, trial_id))


@router.patch("/trials/{trial_id}", response_model=schemas.Trial)
def update_trial(
    trial_id: UUID,
    patch: schemas.TrialPatch,
    request: Request,
    caller: Writer,
    session: Tx,
    if_match: IfMatch = None,
) -> Response:
    """Change user attributes key by key, tags and note, as a JSON merge patch, also after the trial's end."""
    return files.json_response(request, *actions.change(session, caller, trial_id, patch, if_match=if_match))


@router.post("/trials/{trial_id}/stop", response_model=schemas.Trial, responses=NOT_ALLOWED_NOW)
def stop_trial(
    trial_id: UUID,
    request: Request,
    caller: Writer,
    session: Tx,
    end: schemas.TrialEnd = AT_ONCE,
    if_match: IfMatch = None,
) -> Response:
    """End the trial and keep its result. With `after_step`, the result is that of this step."""
    return files.json_response(request, *actions.end(session, caller, trial_id, "stop", end, if_match=if_match))


@router.post("/trials/{trial_id}/prune", response_model=schemas.Trial, responses=NOT_ALLOWED_NOW)
def prune_trial(
    trial_id: UUID,
    request: Request,
    caller: Writer,
    session: Tx,
    end: schemas.TrialEnd = AT_ONCE,
    if_match: IfMatch = None,
) -> Response:
    """End the trial as pruned: it is given up, and keeps what it recorded. With `after_step`, up to this step."""
    return files.json_response(request, *actions.end(session, caller, trial_id, "prune", end, if_match=if_match))


@router.post("/trials/{trial_id}/cancel", response_model=schemas.Trial, responses=NOT_ALLOWED_NOW)
def cancel_trial(trial_id: UUID, request: Request, caller: Writer, session: Tx, if_match: IfMatch = None) -> Response:
    """End the trial as cancelled; its records stay."""
    return files.json_response(request, *actions.request(session, caller, trial_id, "cancel", if_match=if_match))


@router.post("/trials/{trial_id}/pause", response_model=schemas.Trial, responses=NOT_ALLOWED_NOW)
def pause_trial(trial_id: UUID, request: Request, caller: Writer, session: Tx, if_match: IfMatch = None) -> Response:
    """Write a checkpoint and free the device; `resume` continues from there."""
    return files.json_response(request, *actions.request(session, caller, trial_id, "pause", if_match=if_match))


@router.post("/trials/{trial_id}/resume", response_model=schemas.Trial, responses=NOT_ALLOWED_NOW)
def resume_trial(trial_id: UUID, request: Request, caller: Writer, session: Tx, if_match: IfMatch = None) -> Response:
    """Queue a paused trial again."""
    return files.json_response(request, *actions.request(session, caller, trial_id, "resume", if_match=if_match))


@router.post("/trials/{trial_id}/retry", response_model=schemas.Trial, responses=NOT_ALLOWED_NOW)
def retry_trial(trial_id: UUID, request: Request, caller: Writer, session: Tx, if_match: IfMatch = None) -> Response:
    """Queue a failed trial again, from its newest checkpoint and with fresh budgets."""
    return files.json_response(request, *actions.request(session, caller, trial_id, "retry", if_match=if_match))


@router.post("/trials/{trial_id}/extend", response_model=schemas.Trial, responses=NOT_ALLOWED_NOW)
def extend_trial(
    trial_id: UUID,
    more: schemas.TrialExtend,
    caller: Writer,
    session: Tx,
    idempotency: Idempotency,
    if_match: IfMatch = None,
) -> Response:
    """Queue a complete, pruned or paused trial for more steps, from its current weights.

    A repeated request with the same Idempotency-Key has no further effect.
    """
    extend = lambda: actions.extend(session, caller, trial_id, more.steps, if_match=if_match)
    return idempotency.respond(session, caller, lambda: PostResult(extend(), created=False))


@router.post("/trials/{trial_id}/confirm", responses=conflict("There is nothing to confirm, or not yet."))
def confirm_trial(
    trial_id: UUID, caller: Writer, session: Tx, asked: schemas.Confirm = AS_USUAL
) -> schemas.Confirmation:
    """Train from the first initialization under the trial's best hyperparameters, in trials of the same study.

    Trainings that run or are complete already are not repeated, so that the request can be.
    """
    return confirmations.create(session, caller, trial_id, asked)


@router.get("/trials/{trial_id}/confirmation", responses=conflict("There is nothing to confirm."))
def get_confirmation(trial_id: UUID, caller: Reader, session: Tx) -> schemas.Confirmation:
    """The trial's own numbers at its best step, beside those of the trainings that confirm it."""
    return confirmations.get(session, caller.user_id, trial_id)


@router.post("/trials/{trial_id}/truth", responses=conflict("There is nothing to retrain, or not yet."))
def retrain_trial(trial_id: UUID, caller: Writer, session: Tx, asked: schemas.Retrain = RETRAIN) -> schemas.TruthReport:
    """Train again from the first initialization under changes of the best hyperparameters, in trials of the same study.

    Their losses show whether the hypergradient predicts what retraining gives. Trainings that run or are complete
    already are not repeated, so that the request can be.
    """
    return retrainings.create(session, caller, trial_id, asked)


@router.get("/trials/{trial_id}/truth", responses=conflict("There is nothing to retrain."))
def get_truth(
    trial_id: UUID,
    caller: Reader,
    session: Tx,
    size: Annotated[
        float,
        Query(
            gt=0,
            allow_inf_nan=False,
            description="standard deviation of the changes that the trainings were asked with",
            examples=[0.1],
        ),
    ] = RETRAIN.size,
) -> schemas.TruthReport:
    """What the hypergradient predicts, beside what the trainings under changes of this size have found so far."""
    return retrainings.get(session, caller.user_id, trial_id, size)


@router.post("/trials/{trial_id}/priority", response_model=schemas.Trial)
def prioritize_trial(
    trial_id: UUID,
    new: schemas.TrialPriority,
    request: Request,
    caller: Writer,
    session: Tx,
    if_match: IfMatch = None,
) -> Response:
    """Let the trial run before those of lower priority, and after those of higher."""
    changed = actions.prioritize(session, caller, trial_id, new.priority, if_match=if_match)
    return files.json_response(request, *changed)


@router.get("/trials/{trial_id}/options", response_model=schemas.TrialOptions)
def list_options(trial_id: UUID, request: Request, caller: Reader, session: Tx) -> Response:
    """The options of the trial, those first that differ from their defaults, and what it tunes in short."""
    return files.json_response(request, options.get(session, caller.user_id, trial_id))


@router.get("/trials/{trial_id}/attempts")
def list_attempts(
    trial_id: UUID,
    caller: Reader,
    session: Tx,
    cursor: CursorOfOneOrder = None,
    limit: Limit = paging.MAX_LIMIT,
) -> schemas.Attempts:
    """The attempts at the trial, oldest first: worker, start, end, and why each ended."""
    return attempts.page(session, caller.user_id, trial_id, cursor=cursor, limit=limit)


@router.get("/trials/{trial_id}/logs", response_model=schemas.LogPage)
def list_logs(
    trial_id: UUID,
    request: Request,
    caller: Reader,
    session: Tx,
    level: Annotated[schemas.LogLevel, Query(description="the least urgent lines that are listed")] = (
        schemas.LogLevel.info
    ),
    after: After = 0,
    limit: Limit = paging.MAX_LIMIT,
) -> Response:
    """The lines of the trial's log whose number is above `after`."""
    content = logs.page(session, caller.user_id, trial_id, level=level, after=after, limit=limit)
    return files.versioned_response(request, content)
