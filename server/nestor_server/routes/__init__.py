"""The REST interface: each route is parameters and one call."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from nestor.schemas import API
from nestor_server.http import problems
from nestor_server.http.storable_json import storable
from nestor_server.routes import (
    blobs,
    datasets,
    events,
    hyperparameters,
    programs,
    session,
    steps,
    studies,
    system,
    tokens,
    trials,
)

api = APIRouter(prefix=API, responses=problems.RESPONSES)
for module in (studies, trials, steps, hyperparameters, events, programs, datasets, tokens, session):
    api.include_router(module.router, dependencies=[Depends(storable)])
api.include_router(blobs.router)  # their bytes are anything
api.include_router(system.versioned)

outside = system.router
