"""Sessions of browsers: what a cookie stands for instead of a token. Only the SHA-256 of a session's id is stored."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from nestor.errors import SessionEnded
from nestor_server.models import BrowserSession, Token
from nestor_server.services.access import tokens
from nestor_server.services.access.tokens import Caller

PREFIX = "nss_"
LIFETIME = timedelta(days=30)
MOST = 50  # of one token; the oldest end first


def begin(session: Session, token: str, *, instead_of: str | None = None) -> tuple[Caller, str]:
    """The caller whose token this is, and the id of a new session, which is shown once.

    Args:
        instead_of: the id of the session in which the browser is, which ends.

    Raises:
        Unauthenticated: the token is unknown, expired or revoked.
    """
    caller = tokens.authenticate(session, token)
    if instead_of is not None:
        end(session, instead_of)
    id, sha256 = tokens.new_secret(PREFIX)
    session.add(BrowserSession(token_id=caller.token_id, sha256=sha256, expires_at=func.now() + LIFETIME))
    session.flush()
    own = select(BrowserSession.id).where(BrowserSession.token_id == caller.token_id)
    beyond = own.order_by(BrowserSession.id.desc()).offset(MOST)
    session.execute(delete(BrowserSession).where(BrowserSession.id.in_(beyond)))
    return caller, id


def authenticate(session: Session, id: str) -> Caller:
    """The caller in whose session a browser is.

    Raises:
        Unauthenticated: the session has ended, or its token is expired or revoked.
    """
    found = session.execute(
        select(BrowserSession.id, BrowserSession.token_id).where(
            BrowserSession.sha256 == tokens.sha256(id), BrowserSession.expires_at > func.now()
        )
    ).one_or_none()
    if found is None:
        raise SessionEnded(reason="this session has ended")
    return tokens.caller(session, Token.id == found.token_id, credential_id=found.id)


def end(session: Session, id: str) -> None:
    """End a session, if it has not ended yet."""
    session.execute(delete(BrowserSession).where(BrowserSession.sha256 == tokens.sha256(id)))


def purge(session: Session) -> None:
    """Delete the sessions whose time is over."""
    session.execute(delete(BrowserSession).where(BrowserSession.expires_at <= func.now()))
