"""/trials/{id}/steps"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from nestor import schemas
from nestor_server.http import files
from nestor_server.http.transactions import Reader, TransactionRoute, Tx
from nestor_server.routes.parameters import After
from nestor_server.services.records import steps

router = APIRouter(route_class=TransactionRoute, tags=["trials"])


@router.get("/trials/{trial_id}/steps", response_model=schemas.StepColumns)
def columns(
    trial_id: UUID,
    request: Request,
    caller: Reader,
    session: Tx,
    after: After = 0,
    columns: Annotated[
        str | None, Query(max_length=2_000, description="names separated by commas; default: all columns")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=steps.MAX_LIMIT)] = 10_000,
) -> Response:
    """The steps whose number is above `after`, as columns."""
    names = [name.strip() for name in columns.split(",")] if columns else None
    result = steps.columns(session, caller.user_id, trial_id, names=names, after=after, limit=limit)
    return files.json_response(request, result, str(result.seq))
