"""Errors as RFC 9457 problem documents: what is wrong, where, and what to do about it."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, ConfigDict
from sqlalchemy import exc
from starlette.exceptions import HTTPException

from nestor.errors import (
    PROBLEM_JSON,
    BodyUnreadable,
    MethodNotAllowed,
    NestorError,
    NotFound,
    SchemaInvalid,
    TrailingSlash,
    Unauthenticated,
    Unavailable,
    ValueNotStorable,
)
from nestor.options.base import about
from nestor_server.http.checks import validation_errors

log = logging.getLogger(__name__)

RETRY_SECONDS = 3  # after errors that do not say when to try again


class ProblemEntry(BaseModel):
    """One of several mistakes."""

    model_config = ConfigDict(extra="allow")

    field: Annotated[str, about("the path to the field, or the name of the parameter", example="inner.lr")]
    code: Annotated[str, about("names the kind of mistake", example="option-out-of-range")]
    message: Annotated[str, about("what is wrong", example="It must be above 0")]
    remedy: Annotated[str, about("what to do about it", example="The value was -1.")] = ""


class ProblemDocument(BaseModel):
    """An error: what is wrong, and what to do about it (RFC 9457)."""

    type: Annotated[str, about("a URI that identifies the code", example="https://nestor.invalid/errors/study-exists")]
    title: Annotated[str, about("the code in words", example="Study Exists")]
    status: Annotated[int, about("the HTTP status", example=409)]
    detail: Annotated[
        str,
        about(
            "what is wrong with this request, and what to do",
            example="You already have a study named 'digits'. Pass load_if_exists=True to continue it, or pick another "
            "name.",
        ),
    ]
    code: Annotated[str, about("names the kind of error; docs/errors.md lists all", example="study-exists")]
    retryable: Annotated[bool, about("whether the same request may succeed later")]
    request_id: Annotated[
        str | None,
        about("identifies the request in the server's log", example="019a4c6e5f3a7c5e8f0e2d1c3b4a5968"),
    ]
    context: Annotated[dict[str, Any], about("values in the sentence, for programs", example={"name": "digits"})]
    errors: Annotated[list[ProblemEntry], about("each mistake, if there can be several")]


def response(error: NestorError, request_id: str | None, headers: dict[str, str] | None = None) -> JSONResponse:
    """The problem document of `error`, with its status and the headers that belong to it."""
    headers = dict(headers or {})
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if error.retryable:
        headers["Retry-After"] = str(error.context.get("retry_after", RETRY_SECONDS))
    return JSONResponse(error.problem(request_id), error.status, headers, media_type=PROBLEM_JSON)


def translate(error: Exception) -> NestorError | None:
    """The error that the user sees; None for errors that belong into the server's log only."""
    match error:
        case SchemaInvalid():
            return None  # FastAPI validates requests, so a response of this server is invalid
        case NestorError():
            return error
        case exc.DataError():
            return ValueNotStorable()
        case exc.OperationalError() | exc.InterfaceError() | exc.TimeoutError():
            return Unavailable(part="The database")
        case exc.DBAPIError(connection_invalidated=True):
            return Unavailable(part="The database")
        case _:
            return None


def install(app: FastAPI) -> None:
    """Make `app` answer every error with a problem document."""

    @app.exception_handler(NestorError)
    @app.exception_handler(exc.SQLAlchemyError)
    async def _on_error(request: Request, error: Exception) -> JSONResponse:
        translated = translate(error)
        if translated is None:
            raise error
        if isinstance(translated, Unavailable):
            log.warning("request %s: %s", request.state.request_id, error)
        return response(translated, request.state.request_id)

    @app.exception_handler(RequestValidationError)
    async def _on_invalid_fields(request: Request, error: RequestValidationError) -> JSONResponse:
        failure = validation_errors.as_failure(error.errors(), _body_model(request))
        return response(failure, request.state.request_id)

    @app.exception_handler(HTTPException)
    async def _on_framework_error(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        path, request_id = request.url.path, request.state.request_id
        if isinstance(error.__cause__, NestorError):  # raised while the body was read, and wrapped by the framework
            return response(error.__cause__, request_id)
        if error.status_code == 404:
            without_slash = path.rstrip("/")
            if path != without_slash and _methods(app, without_slash, request):
                return response(TrailingSlash(path=path, existing=without_slash), request_id, headers)
            return response(NotFound(path=path), request_id, headers)
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_methods(app, path, request)) or headers["Allow"]
            refused = MethodNotAllowed(method=request.method, path=path, allowed=headers["Allow"])
            return response(refused, request_id, headers)
        return response(BodyUnreadable(reason=str(error.detail).rstrip(".")), request_id, headers)


def _methods(app: FastAPI, path: str, request: Request) -> list[str]:
    """The methods of all routes with this path. The framework names those of the first one alone."""
    path = path.removeprefix(request.scope.get("root_path", ""))
    routes = [route for route in iter_route_contexts(app.routes) if route.path_regex.match(path)]
    return sorted({method for route in routes for method in route.methods or ()})


def _body_model(request: Request) -> Any:
    """What the route takes as its body, if it takes one."""
    body = getattr(request.scope.get("route"), "body_field", None)
    return body.field_info.annotation if body is not None else None
