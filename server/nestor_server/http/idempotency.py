"""Idempotency keys: a POST that is sent again gets the first response, and takes effect once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from nestor.errors import IdempotencyConflict
from nestor.schemas.base import Json
from nestor_server.models import IDEMPOTENCY_WINDOW, IdempotencyKey
from nestor_server.services.access.tokens import Caller


@dataclass(frozen=True)
class PostResult:
    """What a POST created or changed; `location` is the URL of the new resource."""

    content: BaseModel
    location: str | None = None
    created: bool = True  # 201, else 200


@dataclass(frozen=True)
class IdempotentRequest:
    """A POST that calls its service once per idempotency key, and answers with the result or the stored response.

    The key is stored in the transaction of the request, so it exists exactly if the service's effect does.
    """

    key: str | None  # None: the client sent no key, and every request takes effect
    url_and_body: tuple[bytes, bytes]

    def respond(self, session: Session, caller: Caller, service: Callable[[], PostResult]) -> JSONResponse:
        """The response to the POST that `service` handles.

        Raises:
            IdempotencyConflict: the key was used for another request within `IDEMPOTENCY_WINDOW`.
        """
        if self.key is None:
            status, body, location = _parts(service())
            return _response(status, body, location)
        # A second request with this key waits here until the first is committed, and then finds its response.
        lock = func.hashtextextended(f"{caller.token_id} {self.key}", 0)
        session.execute(select(func.pg_advisory_xact_lock(lock)))
        same_key = (IdempotencyKey.token_id == caller.token_id, IdempotencyKey.key == self.key)
        expired = IdempotencyKey.created_at < func.now() - IDEMPOTENCY_WINDOW
        session.execute(delete(IdempotencyKey).where(*same_key, expired))
        request_sha256 = hashlib.sha256(b"\n".join(self.url_and_body)).hexdigest()
        stored = session.scalars(select(IdempotencyKey).where(*same_key)).one_or_none()
        if stored is not None:
            if stored.request_sha256 != request_sha256:
                raise IdempotencyConflict(key=self.key)
            return _response(stored.status, stored.response["content"], stored.response["location"], replayed=True)
        status, body, location = _parts(service())
        session.add(
            IdempotencyKey(
                token_id=caller.token_id,
                key=self.key,
                request_sha256=request_sha256,
                status=status,
                response={"content": body, "location": location},
            )
        )
        session.flush()
        return _response(status, body, location)


Key = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=200,
        description="the request takes effect once for each key, however often it is sent",
        examples=["8d5f2c1e-1"],
    ),
]


async def _idempotent_request(request: Request, idempotency_key: Key = None) -> IdempotentRequest:
    return IdempotentRequest(idempotency_key, (f"{request.method} {request.url.path}".encode(), await request.body()))


Idempotency = Annotated[IdempotentRequest, Depends(_idempotent_request)]


def _parts(result: PostResult) -> tuple[int, dict[str, Json], str | None]:
    return 201 if result.created else 200, result.content.model_dump(mode="json"), result.location


def _response(status: int, content: dict[str, Json], location: str | None, *, replayed: bool = False) -> JSONResponse:
    headers = {"Location": location} if location else {}
    if replayed:
        headers["Idempotency-Replayed"] = "true"
    return JSONResponse(content, status, headers)
