"""/tokens, /me and /session: who may use the server"""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response

from nestor import schemas
from nestor_server.http.auth import COOKIE, require_same_site
from nestor_server.http.openapi.responses import Described, headers, problem
from nestor_server.http.transactions import Admin, Reader, TransactionRoute, Tx
from nestor_server.routes.parameters import CursorOfOneOrder, Limit
from nestor_server.services import tokens
from nestor_server.services.lists import paging

router = APIRouter(route_class=TransactionRoute, tags=["tokens"])

SAME_SITE = Depends(require_same_site)  # otherwise another site's page could log its visitor in as someone else
SESSION: Described = {
    200: {"headers": headers("Set-Cookie")},
    401: problem("The token is not valid.", "WWW-Authenticate"),
}


@router.post("/tokens", status_code=201)
def create_token(new: schemas.TokenCreate, caller: Admin, session: Tx) -> schemas.TokenCreated:
    """Create another token for your user. This response is the only one that shows it."""
    return tokens.issue(session, caller.user_id, new)


@router.get("/tokens")
def list_tokens(
    caller: Admin, session: Tx, cursor: CursorOfOneOrder = None, limit: Limit = paging.MAX_LIMIT
) -> schemas.TokenPage:
    """Your valid tokens, oldest first: names, scopes and dates, without the secrets."""
    return tokens.page(session, caller.user_id, cursor=cursor, limit=limit)


@router.delete("/tokens/{token_id}", status_code=204)
def revoke_token(token_id: UUID, caller: Admin, session: Tx) -> None:
    """Revoke a token with immediate effect."""
    tokens.revoke(session, caller.user_id, token_id)


@router.get("/me")
def get_me(caller: Reader) -> schemas.Me:
    """Whose token this is, and what it may do."""
    return schemas.Me(user=caller.user, scope=caller.scope)


@router.post("/session", dependencies=[SAME_SITE], responses=SESSION)
def begin_session(new: schemas.SessionCreate, request: Request, response: Response, session: Tx) -> schemas.Me:
    """Exchange a token for a cookie that scripts cannot read."""
    token = new.token.strip()
    caller = tokens.authenticate(session, token)
    response.set_cookie(
        COOKIE,
        token,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path=request.scope.get("root_path") or "/",
    )
    return schemas.Me(user=caller.user, scope=caller.scope)


@router.delete(
    "/session", status_code=204, dependencies=[SAME_SITE], responses={204: {"headers": headers("Set-Cookie")}}
)
async def end_session(request: Request, response: Response) -> None:
    """Delete the cookie."""
    response.delete_cookie(COOKIE, path=request.scope.get("root_path") or "/")
