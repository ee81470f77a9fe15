"""The REST interface: each route is parameters and one call."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from nestor.schemas import API
from nestor_server.http import problem_documents
from nestor_server.http.storable_json import require_storable_json
from nestor_server.routes import (
    access,
    blobs,
    events,
    hyperparameters,
    problems,
    steps,
    studies,
    system,
    trials,
    webhooks,
)

api = APIRouter(prefix=API, responses=problem_documents.RESPONSES)
for module in (studies, trials, steps, hyperparameters, events, problems, access, webhooks):
    api.include_router(module.router, dependencies=[Depends(require_storable_json)])
api.include_router(blobs.router)  # their bodies are arbitrary bytes
api.include_router(system.versioned)

unversioned = system.unversioned
