"""/programs, /datasets and /presets: what a trial works on, uploaded or built by workers"""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Request, Response

from nestor import schemas
from nestor_server.http import files
from nestor_server.http.checks.bodies import BodyLimit, takes
from nestor_server.http.idempotency import Idempotency, PostResult
from nestor_server.http.openapi.responses import Described, problem
from nestor_server.http.transactions import Reader, TransactionRoute, Tx, Writer
from nestor_server.services.problems import datasets, presets, programs

router = APIRouter(route_class=TransactionRoute, tags=["problems"])

MANY_COLUMNS = BodyLimit(4 * 2**20)  # of data by reference: a hundred bytes for each

NOT_UPLOADED: Described = {404: problem("One of the blobs was not uploaded.")}


@router.post("/programs", status_code=201, response_model=schemas.Program, responses=NOT_UPLOADED)
def create_program(new: schemas.ProgramCreate, caller: Writer, session: Tx, idempotency: Idempotency) -> Response:
    """A program from uploaded graphs and tensors."""
    return idempotency.respond(session, caller, lambda: PostResult(programs.create(session, caller.user_id, new)))


@router.post("/datasets", status_code=201, response_model=schemas.Dataset, responses=NOT_UPLOADED)
@takes(MANY_COLUMNS)
def create_dataset(new: schemas.DatasetCreate, caller: Writer, session: Tx, idempotency: Idempotency) -> Response:
    """A data set from uploaded splits, or from files that workers can read."""
    return idempotency.respond(session, caller, lambda: PostResult(datasets.create(session, caller.user_id, new)))


@router.get("/datasets/{dataset_id}")
def get_dataset(dataset_id: UUID, caller: Reader, session: Tx) -> schemas.Dataset:
    """The splits of a data set: the digest of a blob, or the references."""
    return datasets.record(datasets.get(session, caller.user_id, dataset_id))


@router.get("/presets", response_model=schemas.Presets)
def list_presets(request: Request, caller: Reader, session: Tx) -> Response:
    """What workers build by themselves: presets, and the entry points of packages that running workers have."""
    return files.json_response(request, presets.describe(session))
