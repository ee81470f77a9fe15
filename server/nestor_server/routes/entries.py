"""/trials/{id}/hyperparameters/{name}/top, /values and /image.png"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from nestor import schemas
from nestor.schemas import Order
from nestor_server.http import files
from nestor_server.http.openapi.responses import PICTURE
from nestor_server.http.transactions import Reader, TransactionRoute, Tx
from nestor_server.routes.parameters import StepNumber
from nestor_server.services.pictures import png
from nestor_server.services.records import entries

router = APIRouter(route_class=TransactionRoute, tags=["hyperparameters"])

OrderedBy = Annotated[
    Order,
    Query(
        description="change: the largest change since the start of the trial; gradient: the largest hypergradient, "
        "whatever its sign; highest, lowest: the value"
    ),
]
Most = Annotated[int, Query(ge=1, le=schemas.PER_ORDER, description="the most entries that are returned")]
Indices = Annotated[
    str,
    Query(
        max_length=4_000,
        description="flat indices in row-major order, or positions such as 3.5 for row 3 and column 5, separated by "
        f"commas; at most {schemas.MAX_INDICES}",
        examples=["0,17,3.5"],
    ),
]
AfterStep = Annotated[
    int | None, Query(ge=0, le=2**31 - 1, description="only steps above this one; default: all", examples=[10])
]
MaxPoints = Annotated[
    int | None,
    Query(
        ge=2,
        le=schemas.MAX_NUMBERS,
        description="the most steps; of more, the first, the last and evenly chosen ones are returned. Entries times "
        f"steps are at most {schemas.MAX_NUMBERS:,}",
        examples=[100],
    ),
]
Form = Annotated[
    schemas.Form, Query(description="optimized: before the transform; used: after it, as the losses read the values")
]
Pictures = Annotated[
    str | None,
    Query(
        max_length=2_000,
        description=f"which pictures, by their positions in the first dimension; default: the first {png.SHOWN}",
        examples=["0:20", "3,7"],
    ),
]
GridColumns = Annotated[
    int | None,
    Query(
        ge=1,
        le=png.MAX_PICTURES,
        description="pictures in a row; default: about as many as there are rows",
        examples=[10],
    ),
]
Scale = Annotated[int, Query(ge=1, le=64, description="pixels along an entry of a picture, or a cell of a heat map")]
Bound = Annotated[
    float | None,
    Query(
        allow_inf_nan=False,
        description="the value of the darkest (low) or brightest (high) level; default: a percentile of what is shown, "
        "1 or 99",
        examples=[-6.0],
    ),
]


@router.get("/trials/{trial_id}/hyperparameters/{name}/top", response_model=schemas.TopEntries)
def get_top_entries(
    trial_id: UUID,
    name: schemas.TensorName,
    request: Request,
    caller: Reader,
    session: Tx,
    by: OrderedBy = Order.change,
    k: Most = 20,
    step: StepNumber = None,
) -> Response:
    """The entries of a hyperparameter that changed most, or have the largest hypergradient or value, at one step."""
    content = entries.top(session, caller.user_id, trial_id, name, by=by, k=k, step=step)
    return files.versioned_response(request, content)


@router.get("/trials/{trial_id}/hyperparameters/{name}/values", response_model=schemas.EntryValues)
def get_entry_values(
    trial_id: UUID,
    name: schemas.TensorName,
    request: Request,
    caller: Reader,
    session: Tx,
    index: Indices,
    after: AfterStep = None,
    max_points: MaxPoints = None,
    form: Form = schemas.Form.optimized,
) -> Response:
    """Chosen entries of a hyperparameter at the steps that have a snapshot."""
    content = entries.values(
        session, caller.user_id, trial_id, name, index=index, after=after, max_points=max_points, form=form
    )
    return files.versioned_response(request, content)


@router.get(
    "/trials/{trial_id}/hyperparameters/{name}/image.png",
    response_class=Response,
    responses=PICTURE,
)
def get_image(
    trial_id: UUID,
    name: schemas.TensorName,
    request: Request,
    caller: Reader,
    session: Tx,
    step: StepNumber = None,
    index: Pictures = None,
    columns: GridColumns = None,
    scale: Scale = 1,
    low: Bound = None,
    high: Bound = None,
) -> Response:
    """A hyperparameter as PNG, from its values before the transform.

    Tensors of shape (n, h, w) and (n, 1 or 3, h, w) are grids of gray or RGB pictures. Others are heat maps, from dark
    violet to yellow, whose cells are means: at most 256 × 256 with the first dimension as rows, or 1 × 1024 for a
    vector. If `step` is given and a checkpoint follows it, the response is immutable.
    """
    found = png.picture(
        session,
        caller.user_id,
        trial_id,
        name,
        step=step,
        index=index,
        columns=columns,
        scale=scale,
        low=low,
        high=high,
    )
    return files.made_response(request, found, lambda: found.png(session), media_type="image/png")
