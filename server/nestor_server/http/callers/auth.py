"""Who sent a request: the user whose token it carries, or in whose session the browser is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit
from uuid import UUID

from fastapi import Header, Request, Response
from sqlalchemy.orm import Session

from nestor.errors import CrossSite, Forbidden, TokenMissing
from nestor.schemas import Scope
from nestor_server.services.access import browser_sessions, tokens
from nestor_server.services.access.tokens import Caller

COOKIE = "nestor_session"  # and the port: browsers send cookies to all ports of a host
COOKIE_OF_EARLIER_VERSIONS = "nestor_token"  # it held the token itself; it is deleted and never read
REQUEST_HEADER = "X-Nestor-Request"  # a page of another site cannot send it without a CORS preflight, which is refused
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Credentials:
    """What a request says about its sender, true or not: a token, or the id of a browser's session."""

    secret: str
    is_session: bool


def credentials(request: Request) -> Credentials:
    """Those of the Authorization header, or of a browser's cookie.

    Raises:
        Unauthenticated: the request has none.
        CrossSite: the request changes something, and a cookie is its only proof of origin.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme:
        if scheme.lower() != "bearer" or not token.strip():
            raise TokenMissing(reason="the Authorization header does not hold a bearer token")
        return Credentials(token.strip(), is_session=False)
    if id := session_id(request):
        if request.method not in ("GET", "HEAD"):
            _expect_same_site(request.headers.get(REQUEST_HEADER))
        return Credentials(id, is_session=True)
    raise TokenMissing(reason="it has none")


def fingerprint(request: Request) -> int:
    """A hash of what the request says about its sender. It differs between processes."""
    return hash((request.headers.get("Authorization"), session_id(request)))


def session_id(request: Request) -> str | None:
    """The id of the browser's session, if it has one at this address."""
    cookies = request.cookies
    return cookies.get(cookie_name(request)) if cookies else None


def cookie_name(request: Request) -> str:
    """The name of the session's cookie at this address.

    With https, browsers take a cookie of this name only from this host over https: no other host of the domain and
    nobody who changes plain http can set it.
    """
    name = f"{COOKIE}_{_port(request)}"
    if not _is_secure(request):
        return name
    return f"__Host-{name}" if cookie_path(request) == "/" else f"__Secure-{name}"


def cookie_path(request: Request) -> str:
    """The path below which browsers send the session's cookie."""
    return request.scope.get("root_path") or "/"


def set_cookie(request: Request, response: Response, id: str) -> None:
    """Let the browser keep the id of its session, out of reach of scripts."""
    secure, path = _is_secure(request), cookie_path(request)
    response.set_cookie(cookie_name(request), id, httponly=True, samesite="strict", secure=secure, path=path)
    _forget_token(request, response)


def delete_cookie(request: Request, response: Response) -> None:
    """Let the browser forget its session."""
    response.delete_cookie(cookie_name(request), path=cookie_path(request), secure=_is_secure(request))
    _forget_token(request, response)


def _forget_token(request: Request, response: Response) -> None:
    if COOKIE_OF_EARLIER_VERSIONS in request.cookies:
        response.delete_cookie(COOKIE_OF_EARLIER_VERSIONS, path=cookie_path(request))


def _is_secure(request: Request) -> bool:
    return request.scope["scheme"] == "https"


def _port(request: Request) -> int:
    """The port that the browser sees, as far as a proxy passes it on."""
    try:
        port = urlsplit(f"//{request.headers.get('Host', '')}").port
    except ValueError:
        port = None
    return port or PORTS[request.scope["scheme"]]


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
        Unauthenticated: there is no token and no session, or it is unknown, expired, revoked or ended.
        CrossSite: as `credentials`.
        Forbidden: the token has another scope.
        TooManyRequests
    """
    given = credentials(request)
    find = browser_sessions.authenticate if given.is_session else tokens.authenticate
    caller = find(session, given.secret)
    note(request, caller)
    if not caller.may(scope):
        raise Forbidden(reason=f"its scope is {caller.scope.value!r}", scope=scope.value)
    return caller


def note(request: Request, caller: Caller) -> None:
    """Record that the caller's token is used, and count the request.

    Raises:
        TooManyRequests
    """
    request.app.state.token_uses.note(caller.token_id)
    count(request, caller.user_id)


def count(request: Request, user_id: UUID) -> None:
    """Count a request once as one of this user.

    Raises:
        TooManyRequests
    """
    if not hasattr(request.state, "counted"):
        request.app.state.request_rate.take(user_id)
        request.state.counted = True
