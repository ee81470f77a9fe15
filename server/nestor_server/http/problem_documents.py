"""Errors as RFC 9457 problem documents: what is wrong, where, and what to do about it."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import exc
from starlette.exceptions import HTTPException

from nestor.errors import (
    PROBLEM_JSON,
    BodyUnreadable,
    MethodNotAllowed,
    NestorError,
    NotFound,
    SchemaInvalid,
    Unauthenticated,
    Unavailable,
    ValidationFailed,
    ValueNotStorable,
)
from nestor_server.http import validation_errors

log = logging.getLogger(__name__)


class ProblemDocument(BaseModel):
    """RFC 9457, with the members that Nestor adds."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    request_id: str | None
    context: dict[str, Any]
    errors: list[dict[str, Any]]


RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "What is wrong, and what to do about it",
        "content": {PROBLEM_JSON: {}},
        "model": ProblemDocument,
    }
}


def response(error: NestorError, request_id: str | None, headers: dict[str, str] | None = None) -> JSONResponse:
    """The problem document of `error`, with its status and the headers that belong to it."""
    headers = dict(headers or {})
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if error.retryable:
        headers["Retry-After"] = "3"
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
        errors = validation_errors.explain(request, error)
        first, n_more = errors[0], len(errors) - 1
        summary = f"{first['field']}: {first['message']}" if first["field"] else first["message"]
        summary = f"{summary}. {first['remedy']}" + (f" (And {n_more} more.)" if n_more else "")
        return response(ValidationFailed(summary=summary, errors=errors), request.state.request_id)

    @app.exception_handler(HTTPException)
    async def _on_framework_error(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        path, request_id = request.url.path, request.state.request_id
        if isinstance(error.__cause__, NestorError):  # raised while the body was read, and wrapped by the framework
            return response(error.__cause__, request_id)
        if error.status_code == 404:
            return response(NotFound(path=path), request_id, headers)
        if error.status_code == 405:
            allowed = headers.get("Allow") or "other methods"
            return response(MethodNotAllowed(method=request.method, path=path, allowed=allowed), request_id, headers)
        return response(BodyUnreadable(reason=str(error.detail).rstrip(".")), request_id, headers)
