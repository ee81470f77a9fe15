"""/studies/{id}/trials and /trials"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from nestor import schemas
from nestor.schemas import API
from nestor_server.http import files
from nestor_server.http.auth import Reader, Tx, Writer
from nestor_server.http.idempotency import Idempotent, PostResult
from nestor_server.routes.parameters import After, Cursor, Limit
from nestor_server.services import paging
from nestor_server.services.records import logs
from nestor_server.services.trials import actions, attempts, queries

router = APIRouter(tags=["trials"])


@router.post("/studies/{study_id}/trials", status_code=201, response_model=schemas.Trial)
def create(study_id: UUID, new: schemas.TrialCreate, caller: Writer, session: Tx, respond: Idempotent) -> Response:
    """Queue a trial: one tuning run of a problem."""

    def create() -> PostResult:
        trial = actions.create(session, caller, study_id, new)
        return PostResult(trial, f"{API}/trials/{trial.id}")

    return respond(create)


@router.get("/studies/{study_id}/trials", response_model=schemas.TrialPage)
def page(
    study_id: UUID,
    request: Request,
    caller: Reader,
    session: Tx,
    number: Annotated[int | None, Query(ge=0, le=2**31 - 1, description="only the trial of this number")] = None,
    cursor: Cursor = None,
    limit: Limit = paging.DEFAULT_LIMIT,
) -> Response:
    """The trials of a study, by number."""
    content = queries.page(session, caller.user_id, study_id, number=number, cursor=cursor, limit=limit)
    return files.json_response(request, content)


@router.get("/trials/{trial_id}", response_model=schemas.Trial)
def get(trial_id: UUID, request: Request, caller: Reader, session: Tx) -> Response:
    """One trial. Its ETag changes with each step and each change of state, so polling mostly gets a 304."""
    trial = queries.get(session, caller.user_id, trial_id)
    return files.json_response(request, trial, queries.version(trial))


@router.post("/trials/{trial_id}/stop")
def stop(trial_id: UUID, caller: Writer, session: Tx) -> schemas.Trial:
    """End the trial and keep its result."""
    return actions.request(session, caller, trial_id, "stop")


@router.post("/trials/{trial_id}/cancel")
def cancel(trial_id: UUID, caller: Writer, session: Tx) -> schemas.Trial:
    """End the trial as cancelled; its records stay."""
    return actions.request(session, caller, trial_id, "cancel")


@router.post("/trials/{trial_id}/pause")
def pause(trial_id: UUID, caller: Writer, session: Tx) -> schemas.Trial:
    """Write a checkpoint and free the device; `resume` continues from there."""
    return actions.request(session, caller, trial_id, "pause")


@router.post("/trials/{trial_id}/resume")
def resume(trial_id: UUID, caller: Writer, session: Tx) -> schemas.Trial:
    """Queue a paused trial again."""
    return actions.request(session, caller, trial_id, "resume")


@router.post("/trials/{trial_id}/retry")
def retry(trial_id: UUID, caller: Writer, session: Tx) -> schemas.Trial:
    """Queue a failed trial again, from its newest checkpoint and with fresh budgets."""
    return actions.request(session, caller, trial_id, "retry")


@router.post("/trials/{trial_id}/extend", response_model=schemas.Trial)
def extend(trial_id: UUID, more: schemas.TrialExtend, caller: Writer, session: Tx, respond: Idempotent) -> Response:
    """Queue a complete or paused trial for more steps, from its current weights.

    A repeated request with the same Idempotency-Key has no further effect.
    """
    return respond(lambda: PostResult(actions.extend(session, caller, trial_id, more.steps), created=False))


@router.post("/trials/{trial_id}/priority")
def prioritize(trial_id: UUID, new: schemas.TrialPriority, caller: Writer, session: Tx) -> schemas.Trial:
    """Let the trial run before those of lower priority, and after those of higher."""
    return actions.prioritize(session, caller, trial_id, new.priority)


@router.get("/trials/{trial_id}/attempts")
def list_attempts(trial_id: UUID, caller: Reader, session: Tx) -> schemas.Attempts:
    """The attempts at the trial: worker, start, end, and why each ended."""
    return attempts.page(session, caller.user_id, trial_id)


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
    return files.json_response(request, content)
