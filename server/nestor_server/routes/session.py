"""/session: a browser exchanges a token for a cookie that no script can read"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from nestor import schemas
from nestor_server.http.auth import COOKIE, Tx, same_site
from nestor_server.services import tokens

router = APIRouter(prefix="/session", tags=["tokens"])


@router.post("")
def begin(new: schemas.SessionCreate, request: Request, response: Response, session: Tx) -> schemas.Me:
    """Set the cookie."""
    same_site(request)  # or another site's page could log its reader in as someone else
    identity = tokens.authenticate(session, new.token.strip())
    response.set_cookie(
        COOKIE,
        new.token.strip(),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path=request.scope.get("root_path") or "/",
    )
    return schemas.Me(user=identity.user, scope=identity.scope)


@router.delete("", status_code=204)
def end(request: Request, response: Response) -> None:
    """Take the cookie away."""
    same_site(request)
    response.delete_cookie(COOKIE, path=request.scope.get("root_path") or "/")
