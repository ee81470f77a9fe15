"""/trials/{id}/steps"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from nestor import schemas
from nestor.schemas.thinning import fewest_points
from nestor_server.http import files
from nestor_server.http.transactions import Reader, TransactionRoute, Tx
from nestor_server.routes.parameters import After
from nestor_server.services.records import steps, thinning

router = APIRouter(route_class=TransactionRoute, tags=["trials"])

Columns = Annotated[
    Sequence[Annotated[str, Field(max_length=2_000)]],
    Query(
        max_length=100,
        description="only these columns: repeat it, or separate the names by commas; default: all columns",
        json_schema_extra={"items": {"type": "string", "enum": list(steps.COLUMNS)}},
    ),
]
StepLimit = Annotated[
    int | None,
    Query(
        ge=1,
        le=steps.MAX_LIMIT,
        description="the most steps that are read; default: 10,000, or with `max_points` 100,000",
        examples=[1_000],
    ),
]
MaxPoints = Annotated[
    int | None,
    Query(
        ge=fewest_points(len(thinning.NUMERIC)),  # whatever the columns
        le=steps.MAX_LIMIT,
        description="the most steps that are returned; of more, those that a plot of the columns needs: the first, the "
        "last, and of equal intervals those with the minimum and the maximum of each column of numbers",
        examples=[500],
    ),
]


@router.get("/trials/{trial_id}/steps", response_model=schemas.StepColumns)
def get_steps(
    trial_id: UUID,
    request: Request,
    caller: Reader,
    session: Tx,
    after: After = 0,
    columns: Columns = (),
    limit: StepLimit = None,
    max_points: MaxPoints = None,
) -> Response:
    """The steps whose number is above `after`, as columns. An answer is bounded; `next_after` continues it."""
    names = [name.strip() for some in columns if some for name in some.split(",")]
    content = steps.columns(
        session, caller.user_id, trial_id, names=names, after=after, limit=limit, max_points=max_points
    )
    return files.versioned_response(request, content)
