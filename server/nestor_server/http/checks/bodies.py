"""Bodies of requests: how many bytes they may have, and how they become what routes take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from nestor.errors import BodyStalled, StrangersBodyTooLarge, TooLarge
from nestor_server.http.admission import Gate
from nestor_server.http.checks.json_documents import read

F = TypeVar("F", bound=Callable[..., Any])

SMALL_BYTES = 4096  # a body of this size is read in less than it takes to hand it to a thread and back


@dataclass(frozen=True)
class BodyLimit:
    """The most bytes of a body, and the error for more."""

    nbytes: int
    error: type[TooLarge] = TooLarge

    def refusal(self) -> TooLarge:
        """What to raise for a larger body."""
        return self.error(what="The body", limit=self.nbytes, setting="NESTOR_MAX_JSON_BYTES")


STRANGERS = BodyLimit(4096, StrangersBodyTooLarge)  # until it is known who sends it; POST /session takes a token


def takes(limit: BodyLimit) -> Callable[[F], F]:
    """Say that a route's function takes larger bodies than others. An operator may allow even larger ones."""

    def say(function: F) -> F:
        function.__dict__["body_limit"] = limit
        return function

    return say


def limit_of(endpoint: Callable[..., Any], max_json_bytes: int) -> BodyLimit:
    """The limit of a route's function for a known caller."""
    own: BodyLimit | None = endpoint.__dict__.get("body_limit")
    return own if own is not None and own.nbytes > max_json_bytes else BodyLimit(max_json_bytes)


def limited(scope: Scope, receive: Receive, *, stall_seconds: float) -> Receive:
    """`receive` with a limit, which is that of strangers until `allow` raises it. It also waits for a limited time.

    A body whose length is announced is refused before its bytes arrive.
    """
    allow(scope, STRANGERS)
    announced = Headers(scope=scope).get("Content-Length", "")
    received, complete = 0, False

    async def receive_limited() -> Message:
        nonlocal received, complete
        if complete:
            return await receive()  # waits for the client to disconnect
        limit: BodyLimit = scope["state"]["body_limit"]
        if announced.isdigit() and int(announced) > limit.nbytes:
            raise limit.refusal()
        try:
            async with asyncio.timeout(stall_seconds):
                message = await receive()
        except TimeoutError:
            raise BodyStalled(seconds=stall_seconds, setting="NESTOR_STALL_SECONDS") from None
        complete = not message.get("more_body", False)
        received += len(message.get("body", b""))
        if received > limit.nbytes:
            raise limit.refusal()
        return message

    return receive_limited


def allow(scope: Scope, limit: BodyLimit) -> None:
    """Let the body of this request have as many bytes from now on."""
    scope["state"]["body_limit"] = limit


class JsonRequest(Request):
    """A request whose JSON is read, checked and validated in one go: in a thread, unless it is small.

    FastAPI would do that on the event loop, where a large body delays all other requests. It takes an instance of a
    model as it is.

    Args:
        model: what the route takes.
    """

    def __init__(self, request: Request, model: type[BaseModel], gate: Gate) -> None:
        super().__init__(request.scope, request.receive)
        self._model, self._gate = model, gate

    async def json(self) -> Any:
        """The body as an instance of the model.

        Raises:
            ValidationFailed: it is no such instance, or cannot be stored.
            ValueError: it is not JSON.
            ServerBusy: as `Gate.run`.
        """
        data = await self.body()
        if len(data) <= SMALL_BYTES:
            return read(data, self._model)
        caller = self.scope["state"].get("caller")
        return await self._gate.run(lambda: read(data, self._model), caller=caller and caller.user_id)
