"""Assembles /openapi.json: FastAPI's description of the routes, completed by rules that hold for all of them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from copy import deepcopy
from importlib.resources import files as package_files
from typing import Any

from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi
from fastapi.routing import RouteContext, iter_route_contexts

from nestor.schemas import Scope
from nestor_server.http.callers.auth import COOKIE, REQUEST_HEADER
from nestor_server.http.openapi import schemas
from nestor_server.http.openapi.responses import HEADERS, TEXT, headers, problem, unchanged
from nestor_server.http.transactions import TransactionRoute, scope_of
from nestor_server.services import versions

Json = dict[str, Any]

TAGS = {
    "studies": "A study groups trials, and ranks them by a metric.",
    "trials": "A trial is one tuning run: submit, watch and steer it, and read its steps.",
    "hyperparameters": "What a trial tunes, at each recorded step, and its checkpoints. Tensors are binary.",
    "problems": "What a trial works on: presets, programs that were exported, and data sets.",
    "blobs": "Uploads that resume, and downloads by digest.",
    "webhooks": "Signed notices about trials, to addresses that the server's operator allows.",
    "tokens": "Who may use the server.",
    "system": "Whether the server is alive, its version, and its workers.",
}
PARAMETERS: Json = {  # in paths
    "study_id": {"description": "the `id` of a study"},
    "trial_id": {"description": "the `id` of a trial"},
    "dataset_id": {"description": "the `id` of a data set"},
    "webhook_id": {"description": "the `id` of one of your webhooks"},
    "token_id": {"description": "the `id` of a token"},
    "name": {"description": "the name of a hyperparameter", "example": "l2.0.weight"},
}
SECURITY_SCHEMES: Json = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "nst_…",
        "description": "A token, which `nestor token create` or `POST /api/v1/tokens` makes.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": f"{COOKIE}_8000",
        "description": "The cookie that `POST /api/v1/session` sets. Its name ends with the port of the address, and "
        f"begins with `__Host-` or `__Secure-` over https. Requests other than GET and HEAD also need the header "
        f"`{REQUEST_HEADER}: 1`.",
    },
}
READING: Json = {
    name: {
        "name": name,
        "in": "header",
        "required": False,
        "description": text,
        "schema": TEXT | {"examples": [example]},
    }
    for name, text, example in (
        ("If-None-Match", "the ETag that you have: 304 if it is the present one", '"17-0-4"'),
        ("Range", "only these bytes: 206", "bytes=0-1023"),
        ("If-Range", "all bytes, unless this is the present ETag", '"17-0-4"'),
    )
}
SAFE = ("get", "head")


def as_json(app: FastAPI) -> tuple[bytes, str]:
    """The document and its version. To make it takes seconds, nearly all of them in pydantic: do so in a thread."""
    content = json.dumps(document(app), ensure_ascii=False, separators=(",", ":")).encode()
    return content, versions.of_json(content)


def document(app: FastAPI) -> Json:
    """The OpenAPI document of all routes of `app`. It is made once."""
    if app.openapi_schema is None:
        described = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=(package_files(__package__ or "") / "introduction.md").read_text(),
            routes=app.routes,
            tags=[{"name": name, "description": text} for name, text in TAGS.items()],
            servers=[{"url": ".", "description": "This server, also under a path prefix."}],
        )
        described["components"] |= {"securitySchemes": SECURITY_SCHEMES, "headers": HEADERS}
        schemas.complete(described)
        served = _served(app)
        for path, operations in described["paths"].items():
            for method, route in sorted(served[path].items()):  # GET before HEAD
                if method not in operations:  # HEAD of a file
                    operations[method] = _head_of(operations["get"])
                _complete(operations[method], route, method)
        _link(described["paths"])
        app.openapi_schema = described
    return app.openapi_schema


def _served(app: FastAPI) -> dict[str, dict[str, RouteContext]]:
    """The routes by path and method."""
    found: dict[str, dict[str, RouteContext]] = {}
    for route in iter_route_contexts(app.routes):
        for method in route.methods or ():
            found.setdefault(route.path_format or "", {})[method.lower()] = route
    return found


def _complete(operation: Json, route: RouteContext, method: str) -> None:
    """Add what follows from the route: who may call it, what every such route answers, and the headers."""
    assert route.endpoint is not None
    scope = scope_of(route.endpoint)
    parameters: Json = {}
    for parameter in operation.get("parameters", ()):
        schemas.complete_parameter(parameter, PARAMETERS.get(parameter["name"], {}))
        parameters[parameter["name"]] = parameter
    operation["summary"] = operation["description"].partition("\n")[0].removesuffix(".")
    _secure(operation, scope)
    common: Json = {"422": problem("A parameter or a field is unknown, missing or wrong; `errors` names each.")}
    if scope is not None:
        common["401"] = problem("There is no valid token.", "WWW-Authenticate")
    if scope in (Scope.write, Scope.admin) or REQUEST_HEADER in parameters:
        common["403"] = problem(f"The token's scope is too small, or a cookie came without {REQUEST_HEADER}.")
    if any(parameter["in"] == "path" for parameter in parameters.values()):
        common["404"] = problem("It does not exist, or belongs to another user.")
    if method not in SAFE:
        common["408"] = problem("The body did not arrive.", "Retry-After")
        common["413"] = problem("The body is larger than this server takes.")
    if "Idempotency-Key" in parameters:
        common["409"] = problem("The Idempotency-Key was used for another request.")
    if "If-Match" in parameters:
        common["412"] = problem("The ETag in If-Match is not the present one. Nothing was changed.")
    if scope is not None and isinstance(route.original_route, TransactionRoute):
        common["429"] = problem("You ask for more than a user may; the sentence says of what.", "Retry-After")
    if isinstance(route.original_route, TransactionRoute) and hasattr(route.endpoint, "__signature__"):
        common["503"] = problem("The server is busy, or its database does not answer.", "Retry-After")
    answers = {**common, **operation["responses"]}
    _complete_success(answers, route, method, parameters)
    operation["responses"] = dict(sorted(answers.items()))
    parameters |= {name: READING[name] for name in _conditions(answers)}
    operation["parameters"] = list(parameters.values())
    for answer in answers.values():
        answer["headers"] = {**answer.get("headers", {}), **headers("X-Request-ID")}
        if method == "head":
            answer.pop("content", None)


def _conditions(answers: Json) -> Iterator[str]:
    """The request headers by which a client asks for a part, or only for what has changed."""
    if "304" in answers:
        yield "If-None-Match"
    if "206" in answers:
        yield from ("Range", "If-Range")


def _secure(operation: Json, scope: Scope | None) -> None:
    """Say which scope a token needs: for programs, and as a sentence."""
    if scope is None:
        operation["security"] = []
        needed = "Needs no token."
    else:
        operation["security"] = [{name: [scope.value]} for name in SECURITY_SCHEMES]
        others = [other.value for other in list(Scope)[list(Scope).index(scope) + 1 :]]
        needed = f"Needs a token with the scope `{scope.value}`"
        needed += f", or {' or '.join(f'`{other}`' for other in others)}." if others else "."
    operation["description"] = f"{operation['description']}\n\n{needed}"


def _complete_success(answers: Json, route: RouteContext, method: str, parameters: Json) -> None:
    """Add the headers of a success, and 304, where they follow from how a route answers."""
    if "Idempotency-Key" in parameters:
        names = ("Location", "Idempotency-Replayed") if "201" in answers else ("Idempotency-Replayed",)
        for status in answers.keys() & {"200", "201"}:
            answers[status]["headers"] = headers(*names)
    elif route.response_model is not None and _makes_its_response(route):  # by `files.json_response`
        answers["200"]["headers"] = headers("ETag")
        if method in SAFE:
            answers["304"] = unchanged("ETag")


def _makes_its_response(route: RouteContext) -> bool:
    return route.endpoint is not None and inspect.signature(route.endpoint).return_annotation is Response


def _head_of(get: Json) -> Json:
    """The description of HEAD on a path whose GET is described: the same headers."""
    head = deepcopy(get)
    name = get["operationId"].removeprefix("download_")
    head["responses"] = {status: answer for status, answer in head["responses"].items() if status not in ("206", "416")}
    head["parameters"] = [one for one in head["parameters"] if one["name"] not in ("Range", "If-Range")]
    head |= {"operationId": f"head_{name}", "description": "The headers of GET, without the bytes."}
    return head


def _link(paths: Json) -> None:
    """Say how to go on from an answer: the `id` that `create_x` answers with is the `x_id` in other paths."""
    described = [(path, operation) for path, operations in paths.items() for operation in operations.values()]
    for _, operation in described:
        verb, _, noun = operation["operationId"].partition("_")
        links = {
            other["operationId"]: {
                "operationId": other["operationId"],
                "parameters": {f"{noun}_id": "$response.body#/id"},
            }
            for path, other in described
            if f"{{{noun}_id}}" in path
        }
        if verb == "create" and links:
            for status in operation["responses"].keys() & {"200", "201"}:
                operation["responses"][status]["links"] = links
