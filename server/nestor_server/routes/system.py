"""/healthz, /readyz, /metrics, /openapi.json, /version and /workers: how the server is, and what it offers"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.concurrency import run_in_threadpool

from nestor import schemas
from nestor_server.http import files
from nestor_server.http.openapi.responses import problem, text
from nestor_server.http.refreshed import Refreshed
from nestor_server.http.transactions import Admin, Reader, TransactionRoute, Tx, checks_scope
from nestor_server.observability.scrapes import CONTENT_TYPE, Scrapes
from nestor_server.services import activity, workers

unversioned = APIRouter(tags=["system"])
versioned = APIRouter(route_class=TransactionRoute, tags=["system"])


@unversioned.get("/healthz")
async def get_health() -> schemas.Health:
    """200 while the process answers at all."""
    return schemas.Health(status="ok", checks={})


@unversioned.get("/readyz", responses={503: {"model": schemas.Health, "description": "A part is missing."}})
async def get_readiness(request: Request, response: Response) -> schemas.Health:
    """200 if every part that the server needs answered within the last second, else 503 and each check's result."""
    readiness: Refreshed[schemas.Health] = request.app.state.readiness
    health = await readiness.get()
    response.status_code = 200 if health.status == "ok" else 503
    return health


@unversioned.get(
    "/metrics",
    response_class=Response,
    responses=text("One sample in each line.", CONTENT_TYPE)
    | {503: problem("The database does not answer, and this token is not known from before.", "Retry-After")},
)
@checks_scope(schemas.Scope.admin)
async def get_metrics(request: Request) -> Response:
    """Metrics of this address for Prometheus, as of the last second: of its processes, and of the whole database.

    They are totals over all users, and show nothing of a single one. A server with `NESTOR_METRICS=open` shows them
    without a token.
    """
    scrapes: Scrapes = request.app.state.scrapes
    return Response(await scrapes.text(request), media_type=CONTENT_TYPE)


@unversioned.api_route("/openapi.json", methods=["GET", "HEAD"], include_in_schema=False)
async def get_description(request: Request) -> Response:
    """The description of all routes but this one."""
    description: Refreshed[tuple[bytes, str]] = request.app.state.description
    return await run_in_threadpool(files.json_response, request, *await description.get())


@versioned.get("/version")
async def get_version() -> schemas.Version:
    """The installed version of Nestor and the version of this interface."""
    try:
        installed = installed_version("nestor")
    except PackageNotFoundError:
        installed = "unknown"
    return schemas.Version(nestor=installed, api="v1")


@versioned.get("/activity", response_model=schemas.Activity)
def get_activity(request: Request, caller: Reader, session: Tx) -> Response:
    """What goes on in all your studies: their trials by state, those that failed lately, and what waits for workers."""
    return files.json_response(request, activity.of_user(session, caller.user_id))


@versioned.get("/workers")
def list_workers(caller: Reader, session: Tx) -> schemas.Workers:
    """The running workers: their devices, which of your trials they run, what waits for them, whether they drain."""
    return workers.page(session, caller.user_id)


WorkerId = Annotated[
    str, Path(max_length=300, description="the process of a worker, or one of its slots", examples=["gpu-7:4711"])
]


@versioned.post("/workers/{worker_id:path}/drain")
def drain_worker(worker_id: WorkerId, caller: Admin, session: Tx) -> schemas.Workers:
    """Let a worker process hand its trials over to others and take no more. It can be stopped when it is drained.

    Each trial finishes its step, writes a checkpoint and waits in the queue; no restart is counted. A worker that is
    started again takes trials.
    """
    return workers.drain(session, caller.user_id, worker_id, drains=True)


@versioned.delete("/workers/{worker_id:path}/drain")
def undrain_worker(worker_id: WorkerId, caller: Admin, session: Tx) -> schemas.Workers:
    """Let a worker process that drains take trials again."""
    return workers.drain(session, caller.user_id, worker_id, drains=False)
