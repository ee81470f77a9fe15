"""/programs"""

from __future__ import annotations

from fastapi import APIRouter, Response

from nestor import schemas
from nestor_server.http.auth import Tx, Writer
from nestor_server.http.idempotency import Made, Once
from nestor_server.services.problems import programs

router = APIRouter(prefix="/programs", tags=["problems"])


@router.post("", status_code=201, response_model=schemas.Program)
def create(new: schemas.ProgramCreate, me: Writer, session: Tx, once: Once) -> Response:
    """A program from uploaded graphs and tensors."""
    return once(lambda: Made(programs.create(session, me.user_id, new)))
