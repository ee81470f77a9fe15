"""What a route asks for: a transaction, and someone who may use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from nestor.errors import CrossSite, Forbidden, TokenMissing
from nestor.schemas import Scope
from nestor_server.database import begin
from nestor_server.services import tokens
from nestor_server.services.tokens import Identity

COOKIE = "nestor_token"
REQUEST_HEADER = "X-Nestor-Request"  # a page of another site cannot set it without asking first, and is refused

# scope="function": commit before the response leaves, not after. Otherwise a client
# could read its own 201 and then get a 404.
Tx = Annotated[Session, Depends(begin, scope="function")]


def credentials(request: Request) -> str:
    """The token of a request: from its header, or from a browser's cookie.

    Raises:
        Unauthenticated: there is none.
        CrossSite: a cookie alone would change something.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme:
        if scheme.lower() != "bearer" or not token.strip():
            raise TokenMissing(reason="the Authorization header holds something else")
        return token.strip()
    if cookie := request.cookies.get(COOKIE):
        if request.method not in ("GET", "HEAD"):
            same_site(request)
        return cookie
    raise TokenMissing(reason="it came with none")


def same_site(request: Request) -> None:
    if request.headers.get(REQUEST_HEADER) != "1":
        raise CrossSite(scope=Scope.write.value)


def _at_least(scope: Scope) -> Callable[[Request, Session], Identity]:
    def identify(request: Request, session: Tx) -> Identity:
        identity = tokens.authenticate(session, credentials(request))
        if not identity.may(scope):
            raise Forbidden(reason=f"its scope is {identity.scope.value!r}", scope=scope.value)
        return identity

    return identify


Reader = Annotated[Identity, Depends(_at_least(Scope.read))]
Writer = Annotated[Identity, Depends(_at_least(Scope.write))]
Admin = Annotated[Identity, Depends(_at_least(Scope.admin))]
