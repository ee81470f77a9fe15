"""/datasets"""

from __future__ import annotations

from fastapi import APIRouter, Response

from nestor import schemas
from nestor_server.http.auth import Tx, Writer
from nestor_server.http.idempotency import Made, Once
from nestor_server.services.problems import datasets

router = APIRouter(prefix="/datasets", tags=["problems"])


@router.post("", status_code=201, response_model=schemas.Dataset)
def create(new: schemas.DatasetCreate, me: Writer, session: Tx, once: Once) -> Response:
    """A data set from uploaded splits."""
    return once(lambda: Made(datasets.create(session, me.user_id, new)))
