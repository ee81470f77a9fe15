"""Every error as an RFC 9457 problem document: what is wrong, where, and what to do about it."""

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


class Problem(BaseModel):
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
        "model": Problem,
    }
}


def response(error: NestorError, request_id: str | None, headers: dict[str, str] | None = None) -> JSONResponse:
    headers = dict(headers or {})
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if error.retryable:
        headers["Retry-After"] = "3"
    return JSONResponse(error.problem(request_id), error.status, headers, media_type=PROBLEM_JSON)


def translate(error: Exception) -> NestorError | None:
    """The error as the user may see it; None for one that only our log may see."""
    match error:
        case SchemaInvalid():
            return None  # FastAPI reads requests; here it was an answer of ours that did not hold
        case NestorError():
            return error
        case exc.DataError():
            return ValueNotStorable()
        case exc.OperationalError() | exc.InterfaceError() | exc.TimeoutError():
            return Unavailable(part="The database")
        case exc.DBAPIError(connection_invalidated=True):
            return Unavailable(part="The database")
    return None


def install(app: FastAPI) -> None:
    @app.exception_handler(NestorError)
    @app.exception_handler(exc.SQLAlchemyError)
    def _known(request: Request, error: Exception) -> JSONResponse:
        known = translate(error)
        if known is None:
            raise error
        if isinstance(known, Unavailable):
            log.warning("request %s: %s", request.state.request_id, error)
        return response(known, request.state.request_id)

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        errors = validation_errors.explain(request, error)
        first, more = errors[0], len(errors) - 1
        summary = f"{first['field']}: {first['message']}" if first["field"] else first["message"]
        summary = f"{summary}. {first['remedy']}" + (f" (And {more} more.)" if more else "")
        return response(ValidationFailed(summary=summary, errors=errors), request.state.request_id)

    @app.exception_handler(HTTPException)
    def _framework(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        known = error.__cause__
        if isinstance(known, NestorError):  # raised while the body was read, and wrapped by the framework
            return response(known, request.state.request_id)
        if error.status_code == 404:
            known = NotFound(path=request.url.path)
        elif error.status_code == 405:
            known = MethodNotAllowed(
                method=request.method, path=request.url.path, allowed=headers.get("Allow") or "other methods"
            )
        else:
            known = BodyUnreadable(reason=str(error.detail).rstrip("."))
        return response(known, request.state.request_id, headers)
