"""/studies/{id}/trials and /trials"""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Request, Response

from nestor import schemas
from nestor.schemas import API
from nestor_server.http import files
from nestor_server.http.auth import Reader, Tx, Writer
from nestor_server.http.idempotency import Made, Once
from nestor_server.routes.parameters import Cursor, Limit
from nestor_server.services import attempts as attempt_list
from nestor_server.services import paging, trial_queries, trials

router = APIRouter(tags=["trials"])


@router.post("/studies/{study_id}/trials", status_code=201, response_model=schemas.Trial)
def create(study_id: UUID, new: schemas.TrialCreate, me: Writer, session: Tx, once: Once) -> Response:
    """Submit a tuning job."""

    def make() -> Made:
        trial = trials.create(session, me, study_id, new)
        return Made(trial, f"{API}/trials/{trial.id}")

    return once(make)


@router.get("/studies/{study_id}/trials", response_model=schemas.TrialPage)
def page(
    study_id: UUID, request: Request, me: Reader, session: Tx, cursor: Cursor = None, limit: Limit = paging.DEFAULT
) -> Response:
    """The trials of a study, by number."""
    found = trial_queries.page(session, me.user_id, study_id, cursor=cursor, limit=limit)
    return files.document(request, found)


@router.get("/trials/{trial_id}", response_model=schemas.Trial)
def get(trial_id: UUID, request: Request, me: Reader, session: Tx) -> Response:
    """One trial. Its ETag changes with every step and every change of state, so that polling costs a 304."""
    trial = trial_queries.get(session, me.user_id, trial_id)
    return files.document(request, trial, trial_queries.version(trial))


@router.post("/trials/{trial_id}/stop")
def stop(trial_id: UUID, me: Writer, session: Tx) -> schemas.Trial:
    """End the trial and keep its result."""
    return trials.request(session, me, trial_id, "stop")


@router.post("/trials/{trial_id}/cancel")
def cancel(trial_id: UUID, me: Writer, session: Tx) -> schemas.Trial:
    """End the trial; what was recorded stays."""
    return trials.request(session, me, trial_id, "cancel")


@router.post("/trials/{trial_id}/pause")
def pause(trial_id: UUID, me: Writer, session: Tx) -> schemas.Trial:
    """Free the device; `resume` goes on from the same place."""
    return trials.request(session, me, trial_id, "pause")


@router.post("/trials/{trial_id}/resume")
def resume(trial_id: UUID, me: Writer, session: Tx) -> schemas.Trial:
    """Queue a paused trial again."""
    return trials.request(session, me, trial_id, "resume")


@router.post("/trials/{trial_id}/retry")
def retry(trial_id: UUID, me: Writer, session: Tx) -> schemas.Trial:
    """Queue a failed trial again, from its newest checkpoint and with fresh budgets."""
    return trials.request(session, me, trial_id, "retry")


@router.post("/trials/{trial_id}/extend", response_model=schemas.Trial)
def extend(trial_id: UUID, more: schemas.TrialExtend, me: Writer, session: Tx, once: Once) -> Response:
    """Take more steps, from the weights that a complete or paused trial has.

    Sent again under the same Idempotency-Key, it extends once.
    """
    return once(lambda: Made(trials.extend(session, me, trial_id, more.steps), new=False))


@router.post("/trials/{trial_id}/priority")
def prioritize(trial_id: UUID, new: schemas.TrialPriority, me: Writer, session: Tx) -> schemas.Trial:
    """Let the trial go before those of lower priority, and after those of higher."""
    return trials.prioritize(session, me, trial_id, new.priority)


@router.get("/trials/{trial_id}/attempts")
def attempts(trial_id: UUID, me: Reader, session: Tx) -> schemas.Attempts:
    """Who ran the trial, from when to when, and why each attempt ended."""
    return attempt_list.page(session, me.user_id, trial_id)
