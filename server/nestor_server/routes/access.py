"""/tokens and /me"""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter

from nestor import schemas
from nestor_server.http.auth import Admin, Reader, Tx
from nestor_server.services import tokens

router = APIRouter(tags=["tokens"])


@router.post("/tokens", status_code=201)
def issue(new: schemas.TokenCreate, me: Admin, session: Tx) -> schemas.TokenCreated:
    """Another token of yours. It is shown this once."""
    return tokens.issue(session, me.user_id, new)


@router.get("/tokens")
def page(me: Admin, session: Tx) -> schemas.TokenPage:
    """Your tokens, without what opens the door."""
    return tokens.page(session, me.user_id)


@router.delete("/tokens/{token_id}", status_code=204)
def revoke(token_id: UUID, me: Admin, session: Tx) -> None:
    """End a token at once."""
    tokens.revoke(session, me.user_id, token_id)


@router.get("/me")
def me(me: Reader) -> schemas.Me:
    """Whose token this is, and what it may do."""
    return schemas.Me(user=me.user, scope=me.scope)
