"""Whether the server is alive, whether it can work, and what it is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter, Response

from nestor import schemas
from nestor_server.routes.parameters import TheSessions, TheSettings
from nestor_server.services import readiness

router = APIRouter(tags=["system"])
versioned = APIRouter(tags=["system"])


@router.get("/healthz")
async def alive() -> schemas.Health:
    """The process answers."""
    return schemas.Health(status="ok", checks={})


@router.get("/readyz")
def ready(response: Response, sessions: TheSessions, settings: TheSettings) -> schemas.Health:
    """Every part that the server needs answers; 503 and which one does not, otherwise."""
    health = readiness.check(sessions, settings)
    response.status_code = 200 if health.status == "ok" else 503
    return health


@versioned.get("/version")
async def what() -> schemas.Version:
    try:
        installed = version("nestor")
    except PackageNotFoundError:
        installed = "unknown"
    return schemas.Version(nestor=installed, api="v1")
