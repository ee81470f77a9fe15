"""/studies"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from nestor import schemas
from nestor.schemas import API
from nestor_server.http import files
from nestor_server.http.idempotency import Idempotency, PostResult
from nestor_server.http.openapi.responses import conflict
from nestor_server.http.transactions import Reader, TransactionRoute, Tx, Writer
from nestor_server.routes.parameters import Cursor, IfMatch, Limit, Order, Tags, Text
from nestor_server.services import studies, study_copies, study_lists
from nestor_server.services.lists import paging

router = APIRouter(route_class=TransactionRoute, prefix="/studies", tags=["studies"])

EXISTS = {200: {"model": schemas.Study, "description": "The existing study, with `load_if_exists`."}} | conflict(
    "You have a study of this name, or it ranks its trials in another way, or the Idempotency-Key was used before."
)
AS_NAMED = schemas.StudyRestore()  # without a body
NAME_TAKEN = conflict("Another study has the name, or the study was not deleted and is to get another name.")
NOT_COPIED = conflict(
    "Another study has the name, or the finished trials have recorded too much, or the Idempotency-Key was used before."
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
        str | None,
        Query(max_length=200, description="only the study of exactly this name", examples=["digits-l2"]),
    ] = None,
    state: Annotated[
        Sequence[schemas.State], Query(description="only studies that have a trial in this state, or in one of several")
    ] = (),
    tag: Tags = (),
    q: Text = None,
    deleted: Annotated[
        bool, Query(description="true: the studies that were deleted and can still be restored, instead of the others")
    ] = False,
    sort: Annotated[
        schemas.StudySort,
        Query(description="what they are sorted by; `trials` is their number, and `name` ignores the case of A to Z"),
    ] = schemas.StudySort.created_at,
    order: Order = schemas.SortOrder.desc,
    cursor: Cursor = None,
    limit: Limit = paging.DEFAULT_LIMIT,
) -> Response:
    """Your studies, newest first, each with what is going on in it. `q` searches names, tags and notes.

    A study whose value changes while you read page after page may be missed, or be read twice. That is so with the
    sorts by `last_activity_at`, `best_value` and `trials`.
    """
    content = study_lists.page(
        session,
        caller.user_id,
        name=name,
        states=state,
        tags=tag,
        text=q,
        deleted=deleted,
        sort=sort,
        order=order,
        cursor=cursor,
        limit=limit,
    )
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
    """Change user attributes key by key, tags, note, and until the first trial the ranking: a JSON merge patch."""
    changed = studies.change(session, caller.user_id, study_id, patch, if_match=if_match)
    return files.json_response(request, changed)


@router.delete("/{study_id}", status_code=204)
def delete_study(study_id: UUID, caller: Writer, session: Tx, if_match: IfMatch = None) -> None:
    """Delete a study and cancel its unfinished trials. Its name is free again. For some days it can be restored."""
    studies.delete(session, caller.user_id, study_id, by=f"user {caller.user}", if_match=if_match)


@router.post("/{study_id}/restore", response_model=schemas.Study, responses=NAME_TAKEN)
def restore_study(
    study_id: UUID, request: Request, caller: Writer, session: Tx, how: schemas.StudyRestore = AS_NAMED
) -> Response:
    """Take back the deletion of a study. Trials that it canceled stay canceled. A study that exists stays as it is.

    If another study has the name by now, pass a new one. `GET /studies?deleted=true` lists what can be restored.
    """
    restored = study_copies.restore(session, caller.user_id, study_id, how)
    return files.json_response(request, restored)


@router.post("/{study_id}/copy", status_code=201, response_model=schemas.Study, responses=NOT_COPIED)
def copy_study(
    study_id: UUID, new: schemas.StudyCopy, caller: Writer, session: Tx, idempotency: Idempotency
) -> Response:
    """Copy a study: attributes, tags, note and ranking, and its finished trials with all that they recorded.

    Unfinished trials are not copied. The copies are numbered anew, from 0.
    """

    def copy() -> PostResult:
        made = study_copies.copy(session, caller.user_id, study_id, new)
        return PostResult(made, f"{API}/studies/{made.id}")

    return idempotency.respond(session, caller, copy)
