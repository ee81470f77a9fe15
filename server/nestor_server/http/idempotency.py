"""Idempotency keys: a POST that is sent again gets the answer of the first, and happens once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from nestor.errors import IdempotencyConflict
from nestor_server.http.auth import Tx, Writer
from nestor_server.models import IDEMPOTENCY_WINDOW, IdempotencyKey
from nestor_server.services.tokens import Identity


@dataclass(frozen=True)
class Made:
    """What a POST brought about."""

    content: BaseModel
    location: str | None = None
    new: bool = True


@dataclass(frozen=True)
class Maker:
    """Answers a POST: `make` runs in the request's transaction, and so does the note that it ran."""

    session: Session
    me: Identity
    key: str | None
    request_sha256: str

    def __call__(self, make: Callable[[], Made]) -> JSONResponse:
        if self.key is None:
            return _answer(**_described(make()))
        # A second request with this key waits here until the first is committed, and then finds its answer.
        lock = func.hashtextextended(f"{self.me.token_id} {self.key}", 0)
        self.session.execute(select(func.pg_advisory_xact_lock(lock)))
        mine = (IdempotencyKey.token_id == self.me.token_id, IdempotencyKey.key == self.key)
        self.session.execute(
            delete(IdempotencyKey).where(*mine, IdempotencyKey.created_at < func.now() - IDEMPOTENCY_WINDOW)
        )
        before = self.session.scalars(select(IdempotencyKey).where(*mine)).one_or_none()
        if before is not None:
            if before.request_sha256 != self.request_sha256:
                raise IdempotencyConflict(key=self.key)
            return _answer(before.status, **before.response, replayed=True)
        described = _described(make())
        status = described.pop("status")
        self.session.add(
            IdempotencyKey(
                token_id=self.me.token_id,
                key=self.key,
                request_sha256=self.request_sha256,
                status=status,
                response=described,
            )
        )
        self.session.flush()
        return _answer(status, **described)


async def maker(
    request: Request,
    session: Tx,
    me: Writer,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> Maker:
    digest = hashlib.sha256(f"{request.method} {request.url.path}\n".encode())
    digest.update(await request.body())
    return Maker(session, me, idempotency_key, digest.hexdigest())


Once = Annotated[Maker, Depends(maker)]


def _described(made: Made) -> dict[str, Any]:
    return {
        "status": 201 if made.new else 200,
        "content": made.content.model_dump(mode="json"),
        "location": made.location,
    }


def _answer(status: int, content: Any, location: str | None, *, replayed: bool = False) -> JSONResponse:
    headers = {"Location": location} if location else {}
    if replayed:
        headers["Idempotency-Replayed"] = "true"
    return JSONResponse(content, status, headers)
