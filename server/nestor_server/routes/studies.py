"""/studies"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from nestor import schemas
from nestor.schemas import API
from nestor_server.http import files
from nestor_server.http.idempotency import Idempotency, PostResult
from nestor_server.http.openapi.responses import conflict
from nestor_server.http.transactions import Reader, TransactionRoute, Tx, Writer
from nestor_server.routes.parameters import Cursor, IfMatch, Limit
from nestor_server.services import paging, studies

router = APIRouter(route_class=TransactionRoute, prefix="/studies", tags=["studies"])

EXISTS = {200: {"model": schemas.Study, "description": "The existing study, with `load_if_exists`."}} | conflict(
    "You have a study of this name, or it ranks its trials in another way, or the Idempotency-Key was used before."
)
RANKED = conflict("The study has trials, which its present metric and direction rank.")


@router.post("", status_code=201, response_model=schemas.Study, responses=EXISTS)
def create_study(new: schemas.StudyCreate, caller: Writer, session: Tx, idempotency: Idempotency) -> Response:
    """Create a study. With `load_if_exists`, 200 and the existing study of that name."""

    def create() -> PostResult:
        study, is_new = studies.create(session, caller.user_id, new)
        return PostResult(study, f"{API}/studies/{study.id}", is_new)

    return idempotency.respond(session, caller, create)


@router.get("", response_model=schemas.StudyPage)
def list_studies(
    request: Request,
    caller: Reader,
    session: Tx,
    name: Annotated[
        str | None, Query(max_length=200, description="only the study of this name", examples=["digits-l2"])
    ] = None,
    cursor: Cursor = None,
    limit: Limit = paging.DEFAULT_LIMIT,
) -> Response:
    """Your studies, newest first."""
    content = studies.page(session, caller.user_id, name=name, cursor=cursor, limit=limit)
    return files.versioned_response(request, content)


@router.get("/{study_id}", response_model=schemas.Study)
def get_study(study_id: UUID, request: Request, caller: Reader, session: Tx) -> Response:
    """One study, with the counts of its trials and the best value."""
    return files.json_response(request, studies.get(session, caller.user_id, study_id))


@router.patch("/{study_id}", response_model=schemas.Study, responses=RANKED)
def update_study(
    study_id: UUID,
    patch: schemas.StudyPatch,
    request: Request,
    caller: Writer,
    session: Tx,
    if_match: IfMatch = None,
) -> Response:
    """Change user attributes, each key by itself, tags, and until the first trial the ranking: a JSON merge patch."""
    changed = studies.change(session, caller.user_id, study_id, patch, if_match=if_match)
    return files.json_response(request, changed)


@router.delete("/{study_id}", status_code=204)
def delete_study(study_id: UUID, caller: Writer, session: Tx, if_match: IfMatch = None) -> None:
    """Delete a study and cancel its unfinished trials. Its name is free again."""
    studies.delete(session, caller.user_id, study_id, by=f"user {caller.user}", if_match=if_match)
