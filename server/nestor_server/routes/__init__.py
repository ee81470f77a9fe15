"""The REST interface: each route is parameters and one call."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from nestor.schemas import API
from nestor_server.http.checks.json_documents import require_storable_parameters
from nestor_server.http.checks.known_parameters import require_known_parameters
from nestor_server.http.checks.parameter_texts import require_texts_of_json
from nestor_server.http.openapi.responses import Described, problem
from nestor_server.routes import (
    access,
    blobs,
    entries,
    events,
    examples,
    hyperparameters,
    problems,
    steps,
    studies,
    system,
    trials,
    webhooks,
)

PARAMETERS = [Depends(require_known_parameters), Depends(require_texts_of_json), Depends(require_storable_parameters)]
ERRORS: Described = {"default": problem("Any other error.")}

api = APIRouter(prefix=API, dependencies=PARAMETERS, responses=ERRORS)
for module in (studies, trials, steps, hyperparameters, entries, examples, events, problems, access, webhooks, blobs):
    api.include_router(module.router)
api.include_router(system.versioned)

unversioned = APIRouter(dependencies=PARAMETERS, responses=ERRORS)
unversioned.include_router(system.unversioned)
