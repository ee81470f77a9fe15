"""What surrounds every request: an id, a log line, a limit, safe headers, and an answer when we fail."""

from __future__ import annotations

import logging
import re
from time import perf_counter

import uuid_utils.compat
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nestor.errors import NestorError, TooLarge
from nestor_server.http import problems
from nestor_server.settings import Settings

log = logging.getLogger("nestor_server.access")

REQUEST_ID = "X-Request-ID"
SAFE = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-cache",  # ask again, each time: pages and answers change with the server
}


class Surroundings:
    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.limit = app, settings.max_json_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID, "")
        request_id = given if re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", given) else uuid_utils.compat.uuid7().hex
        scope.setdefault("state", {})["request_id"] = request_id
        _forgive_curl(scope, headers)
        began, status = perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                outgoing = MutableHeaders(scope=message)
                outgoing[REQUEST_ID] = request_id
                for name, value in SAFE.items():
                    outgoing.setdefault(name, value)
            await send(message)

        try:
            length = headers.get("Content-Length", "")
            if length.isdigit() and int(length) > self.limit:
                await problems.response(self._too_large(), request_id)(scope, receive, answer)
            else:
                await self.app(scope, self._limited(receive), answer)
        except Exception:
            log.exception("request %s failed", request_id, extra={"request_id": request_id})
            if status:
                raise  # half an answer has left; the broken connection tells the client
            failure = NestorError(reason="an unexpected error")
            await problems.response(failure, request_id)(scope, receive, answer)
        finally:
            milliseconds = 1000 * (perf_counter() - began)
            # Of the address only the path: a query may hold what does not belong into a log.
            log.info(
                "%s %s %s %.0f ms request=%s", scope["method"], scope["path"], status, milliseconds, request_id,
                extra={"request_id": request_id, "status": status},
            )  # fmt: skip

    def _limited(self, receive: Receive) -> Receive:
        """A body without Content-Length is counted as it comes."""
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> TooLarge:
        return TooLarge(what="The body", limit=self.limit, setting="NESTOR_MAX_JSON_BYTES")


def _forgive_curl(scope: Scope, headers: Headers) -> None:
    """`curl -d '{…}'` announces a form, which nothing here takes: read it as the JSON that it is.

    A form of another site's page gains nothing by that: a cookie alone changes nothing (see `auth.credentials`).
    """
    if headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded"):
        kept = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
        scope["headers"] = [*kept, (b"content-type", b"application/json")]
