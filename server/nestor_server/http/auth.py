"""Who sent a request: the user whose token it carries."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Request
from sqlalchemy.orm import Session

from nestor.errors import CrossSite, Forbidden, TokenMissing
from nestor.schemas import Scope
from nestor_server.services import tokens
from nestor_server.services.tokens import Caller

COOKIE = "nestor_token"
REQUEST_HEADER = "X-Nestor-Request"  # a page of another site cannot send it without a CORS preflight, which is refused


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
            _expect_same_site(request.headers.get(REQUEST_HEADER))
        return cookie
    raise TokenMissing(reason="it has none")


def credentials(request: Request) -> int:
    """A hash of what the request says about its sender, true or not. It differs between processes."""
    return hash((request.headers.get("Authorization"), request.cookies.get(COOKIE)))


async def require_same_site(
    x_nestor_request: Annotated[
        str | None, Header(description="must be 1, which no page of another site can send", examples=["1"])
    ] = None,
) -> None:
    """Refuse requests that a page of another site could have sent.

    Raises:
        CrossSite: `REQUEST_HEADER` is missing.
    """
    _expect_same_site(x_nestor_request)


def _expect_same_site(header: str | None) -> None:
    if header != "1":
        raise CrossSite(scope=Scope.write.value)


def authenticate(request: Request, session: Session, scope: Scope) -> Caller:
    """The caller, if the token allows `scope`.

    Raises:
        Unauthenticated: there is no token, or it is unknown, expired or revoked.
        CrossSite: as `bearer_token`.
        Forbidden: the token has another scope.
    """
    caller = tokens.authenticate(session, bearer_token(request))
    if not caller.may(scope):
        raise Forbidden(reason=f"its scope is {caller.scope.value!r}", scope=scope.value)
    return caller
