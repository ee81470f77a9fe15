"""/trials/{id}/examples and /trials/{id}/examples/image.png"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from nestor import schemas
from nestor_server.http import files
from nestor_server.http.openapi.responses import PICTURE
from nestor_server.http.transactions import Reader, TransactionRoute, Tx
from nestor_server.routes.entries import GridColumns, Scale
from nestor_server.services.pictures import examples as pictures
from nestor_server.services.problems import examples
from nestor_server.services.problems.examples import SplitName

router = APIRouter(route_class=TransactionRoute, tags=["problems"])

Positions = Annotated[
    str,
    Query(
        max_length=2_000,
        description="positions in the split, or ranges of them, separated by commas; at most "
        f"{schemas.MOST_EXAMPLES} examples",
        examples=["0,17", "0:20"],
    ),
]
OfSplit = Annotated[SplitName, Query(description="which examples")]
Column = Annotated[
    str | None,
    Query(max_length=256, description="what is drawn; default: the first column of pictures by name", examples=["x"]),
]


@router.get("/trials/{trial_id}/examples", response_model=schemas.Examples)
def get_examples(
    trial_id: UUID, request: Request, caller: Reader, session: Tx, index: Positions, split: OfSplit = "train"
) -> Response:
    """Chosen examples of a trial's data: their labels and other single numbers, and which columns are pictures.

    The server has what was uploaded, and the data of presets. It does not read files by reference.
    """
    return files.json_response(request, examples.read(session, caller.user_id, trial_id, split, index))


@router.get("/trials/{trial_id}/examples/image.png", response_class=Response, responses=PICTURE)
def get_image_of_examples(
    trial_id: UUID,
    request: Request,
    caller: Reader,
    session: Tx,
    index: Positions,
    split: OfSplit = "train",
    column: Column = None,
    columns: GridColumns = None,
    scale: Scale = 1,
) -> Response:
    """Chosen examples of a trial's data as PNG, a grid of gray or RGB pictures.

    Black is the smallest number of these examples, and white the largest. Pictures are columns of shape (n, h, w) or
    (n, 1 or 3, h, w), and float vectors whose length is a square number from 16. The response is immutable.
    """
    found = pictures.picture(
        session, caller.user_id, trial_id, split, index, column=column, columns=columns, scale=scale
    )
    return files.made_response(request, found, lambda: found.png(session), media_type="image/png")
