"""Dependencies of routes: the request's transaction, and the authenticated caller."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from nestor.errors import CrossSite, Forbidden, TokenMissing
from nestor.schemas import Scope
from nestor_server.database import Sessions
from nestor_server.services import tokens
from nestor_server.services.tokens import Caller

COOKIE = "nestor_token"
REQUEST_HEADER = "X-Nestor-Request"  # a page of another site cannot send it without a CORS preflight, which is refused


def transaction(request: Request) -> Generator[Session]:
    """The transaction of a request: committed when its route returns, rolled back when its route raises."""
    sessions: Sessions = request.app.state.sessions
    with sessions.begin() as session:
        yield session


# scope="function": commit before the response is sent. Otherwise a client could read its own 201 and then get a 404.
Tx = Annotated[Session, Depends(transaction, scope="function")]


def bearer_token(request: Request) -> str:
    """The token from the Authorization header, or from a browser's cookie.

    Raises:
        Unauthenticated: the request has no token.
        CrossSite: the request changes something, and a cookie is its only proof of origin.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme:
        if scheme.lower() != "bearer" or not token.strip():
            raise TokenMissing(reason="the Authorization header does not hold a bearer token")
        return token.strip()
    if cookie := request.cookies.get(COOKIE):
        if request.method not in ("GET", "HEAD"):
            require_same_site(request)
        return cookie
    raise TokenMissing(reason="it has none")


def require_same_site(request: Request) -> None:
    """Refuse requests that a page of another site could have sent.

    Raises:
        CrossSite: `REQUEST_HEADER` is missing.
    """
    if request.headers.get(REQUEST_HEADER) != "1":
        raise CrossSite(scope=Scope.write.value)


def _caller_with(scope: Scope) -> Callable[[Request, Session], Caller]:
    def authenticate(request: Request, session: Tx) -> Caller:
        caller = tokens.authenticate(session, bearer_token(request))
        if not caller.may(scope):
            raise Forbidden(reason=f"its scope is {caller.scope.value!r}", scope=scope.value)
        return caller

    return authenticate


Reader = Annotated[Caller, Depends(_caller_with(Scope.read))]
Writer = Annotated[Caller, Depends(_caller_with(Scope.write))]
Admin = Annotated[Caller, Depends(_caller_with(Scope.admin))]
