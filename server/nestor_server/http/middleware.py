"""The request's context: an id, a log line, a size limit, safe headers, and a response to unexpected errors."""

from __future__ import annotations

import logging
import re
from time import perf_counter

import uuid_utils.compat
from fastapi.routing import APIRoute
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nestor.errors import NestorError
from nestor_server.http import problem_documents
from nestor_server.http.checks.bodies import limited
from nestor_server.observability import logs
from nestor_server.observability.metrics import Metrics
from nestor_server.settings import Settings

log = logging.getLogger("nestor_server.access")

REQUEST_ID = "X-Request-ID"
POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
SECURITY_HEADERS = {
    # No script of the dashboard may turn text into HTML, except for lit-html with its constant templates.
    "Content-Security-Policy": f"{POLICY}; require-trusted-types-for 'script'; trusted-types lit-html",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-cache",  # revalidate each time: pages and responses change with the server
}


class RequestContextMiddleware:
    """ASGI middleware around the whole application.

    Bodies are limited, and must arrive without a pause of `settings.stall_seconds`.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.metrics = metrics
        self.app, self.stall_seconds = app, settings.stall_seconds
        self.log_reads = settings.log_reads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        requested_id = headers.get(REQUEST_ID, "")
        valid = re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", requested_id)
        request_id = requested_id if valid else uuid_utils.compat.uuid7().hex
        scope.setdefault("state", {})["request_id"] = request_id
        _treat_forms_as_json(scope, headers)
        with logs.about(request_id=request_id), self.metrics.in_flight.track_inprogress():
            await self._answer(scope, request_id, receive, send)

    async def _answer(self, scope: Scope, request_id: str, receive: Receive, send: Send) -> None:
        started, status = perf_counter(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self.metrics.answered(scope["method"], _template(scope), status, perf_counter() - started)
                outgoing = MutableHeaders(scope=message)
                outgoing[REQUEST_ID] = request_id
                if outgoing.get("Location", "").startswith("/"):  # routes do not know below which path they are shown
                    outgoing["Location"] = scope.get("root_path", "") + outgoing["Location"]
                for name, value in SECURITY_HEADERS.items():
                    outgoing.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, limited(scope, receive, stall_seconds=self.stall_seconds), send_with_headers)
        except Exception:
            log.exception("request %s failed", request_id)
            if status:
                raise  # half a response was sent; the broken connection tells the client
            failure = NestorError(reason="an unexpected error")
            await problem_documents.response(failure, request_id)(scope, receive, send_with_headers)
        finally:
            seconds = perf_counter() - started
            fields = {"method": scope["method"], "path": scope["path"], "status": status}
            if (trial_id := scope.get("path_params", {}).get("trial_id")) is not None:
                fields["trial_id"] = trial_id
            # Only the path of the URL: a query may hold secrets.
            is_quiet = not self.log_reads and scope["method"] in ("GET", "HEAD") and 0 < status < 400
            log.log(
                logging.DEBUG if is_quiet else logging.INFO,  # dashboards that poll would fill the log
                "%s %s %s %.0f ms request=%s", scope["method"], scope["path"], status, 1000 * seconds, request_id,
                extra=fields | {"duration_seconds": round(seconds, 6)},
            )  # fmt: skip


def _treat_forms_as_json(scope: Scope, headers: Headers) -> None:
    """`curl -d '{…}'` declares a form. No route accepts forms, so the body is read as JSON.

    This does not help a form on another site's page: a cookie alone changes nothing (see `auth.credentials`).
    """
    if headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded"):
        kept = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
        scope["headers"] = [*kept, (b"content-type", b"application/json")]


def _template(scope: Scope) -> str | None:
    """The path of the route that takes the request, as in the reference and without the prefix of the interface.

    A route with this path and other methods, which the framework names too, does not take it.
    """
    route = scope.get("route")
    return route.path_format if isinstance(route, APIRoute) and scope["method"] in route.methods else None
