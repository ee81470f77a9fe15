"""/tokens, /me and /session: who may use the server"""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response

from nestor import schemas
from nestor_server.http.callers import auth
from nestor_server.http.openapi.responses import Described, conflict, headers, problem
from nestor_server.http.transactions import Admin, Reader, TransactionRoute, Tx
from nestor_server.routes.parameters import CursorOfOneOrder, Limit
from nestor_server.services.access import browser_sessions, tokens
from nestor_server.services.lists import paging

router = APIRouter(route_class=TransactionRoute, tags=["tokens"])

SAME_SITE = Depends(auth.require_same_site)  # otherwise another site's page could log its visitor in as someone else
SESSION: Described = {
    200: {"headers": headers("Set-Cookie")},
    401: problem("The token is not valid.", "WWW-Authenticate"),
    429: problem("Its user sends too many requests.", "Retry-After"),
}


@router.post("/tokens", status_code=201, responses=conflict("You have as many valid tokens as a user may have."))
def create_token(new: schemas.TokenCreate, caller: Admin, session: Tx) -> schemas.TokenCreated:
    """Create another token for your user. This response is the only one that shows it."""
    return tokens.issue(session, caller.user_id, new)


@router.get("/tokens")
def list_tokens(
    caller: Reader, session: Tx, cursor: CursorOfOneOrder = None, limit: Limit = paging.MAX_LIMIT
) -> schemas.TokenPage:
    """Your valid tokens, oldest first: names, scopes and dates, without the secrets."""
    return tokens.page(session, caller, cursor=cursor, limit=limit)


@router.delete("/tokens/{token_id}", status_code=204, responses={403: problem("The other token may do more.")})
def revoke_token(token_id: UUID, caller: Reader, session: Tx) -> None:
    """Revoke a token with immediate effect. The sessions of browsers that began with it, and its event streams, end.

    Every token can revoke itself. A token that may write can also revoke your other tokens that may not do more.
    """
    tokens.revoke(session, caller, token_id)


@router.get("/me")
def get_me(caller: Reader) -> schemas.Me:
    """Whose token this is, and what it may do."""
    return tokens.describe_caller(caller)


@router.post("/session", dependencies=[SAME_SITE], responses=SESSION)
def begin_session(new: schemas.SessionCreate, request: Request, response: Response, session: Tx) -> schemas.Me:
    """Exchange a token for a cookie that scripts cannot read. It holds the id of a session, which lasts for 30 days."""
    caller, id = browser_sessions.begin(session, new.token.strip(), instead_of=auth.session_id(request))
    auth.note(request, caller)
    auth.set_cookie(request, response, id)
    return tokens.describe_caller(caller)


@router.delete(
    "/session", status_code=204, dependencies=[SAME_SITE], responses={204: {"headers": headers("Set-Cookie")}}
)
def end_session(request: Request, response: Response, session: Tx) -> None:
    """End the session of this browser and its event streams, and delete the cookie."""
    if id := auth.session_id(request):
        browser_sessions.end(session, id)
    auth.delete_cookie(request, response)
