"""Tokens and the users that they stand for. A token is random, shown once, and stored as its SHA-256."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.errors import TokenExpired, TokenNotFound, TokenRevoked, TokenUnknown
from nestor.schemas import Scope
from nestor_server.models import Token, User
from nestor_server.services.lists import paging, sorting

PREFIX = "nst_"  # lets people and secret scanners recognize a leaked token
STORED = paging.stored_bytes(Token.name)
BY_AGE = sorting.Order("tokens", "created_at", sorting.Sort(Token.id, UUID), Token.id, descending=False)


@dataclass(frozen=True)
class Caller:
    """The user behind a token, and what the token may do."""

    user_id: UUID
    user: str
    scope: Scope
    token_id: UUID

    def may(self, scope: Scope) -> bool:
        """Whether the token's scope includes `scope`: admin includes write, and write includes read."""
        order = list(Scope)
        return order.index(self.scope) >= order.index(scope)


def create(
    session: Session,
    user_name: str,
    scope: Scope = Scope.write,
    name: str = "token",
    expires: timedelta | None = None,
) -> str:
    """Create a token, and its user if that name is new. The return value is the only copy of the token."""
    session.execute(insert(User).values(name=user_name).on_conflict_do_nothing(index_elements=[User.name]))
    user = session.scalars(select(User).where(User.name == user_name)).one()
    plaintext, _ = _issue(session, user.id, scope, name, expires)
    return plaintext


def issue(session: Session, owner_id: UUID, new: schemas.TokenCreate) -> schemas.TokenCreated:
    """Create another token of the same user."""
    expires = None if new.expires_in_days is None else timedelta(days=new.expires_in_days)
    plaintext, token = _issue(session, owner_id, new.scope, new.name, expires)
    return schemas.TokenCreated(**describe(token).model_dump(), token=plaintext)


def authenticate(session: Session, plaintext: str) -> Caller:
    """The caller whose token this is.

    Raises:
        Unauthenticated: the token is unknown, expired or revoked.
    """
    row = session.execute(
        select(Token, User.name, (Token.expires_at <= func.now()).label("expired"))
        .join(User, User.id == Token.user_id)
        .where(Token.sha256 == _sha256(plaintext))
    ).one_or_none()
    if row is None:
        raise TokenUnknown(reason="this token is unknown")
    if row.Token.revoked_at is not None:
        raise TokenRevoked(reason="this token was revoked")
    if row.expired:
        raise TokenExpired(reason=f"this token expired on {row.Token.expires_at:%Y-%m-%d}")
    return Caller(row.Token.user_id, row.name, Scope(row.Token.scope), row.Token.id)


def invalid(session: Session, token_ids: Iterable[UUID]) -> set[UUID]:
    """Those of the tokens that are revoked, expired or deleted."""
    ids = set(token_ids)
    valid = select(Token.id).where(Token.id.in_(ids), Token.revoked_at.is_(None), _has_not_expired())
    return ids.difference(session.scalars(valid))


def page(session: Session, owner_id: UUID, *, cursor: str | None, limit: int) -> schemas.TokenPage:
    """The valid tokens of a user, oldest first.

    Raises:
        CursorInvalid: the cursor belongs to another list.
    """
    own = select(Token.id, STORED).where(Token.user_id == owner_id, Token.revoked_at.is_(None), _has_not_expired())
    index = BY_AGE.index(session, own, limit, cursor)
    tokens = index.arrange(session.scalars(select(Token).where(index.holds(Token.id))), Token.id)
    return schemas.TokenPage(items=tuple(map(describe, tokens)), next_cursor=index.next_cursor)


def revoke(session: Session, owner_id: UUID, token_id: UUID) -> None:
    """End a token of this user.

    Raises:
        TokenNotFound: the user has no such token, or it is revoked already.
    """
    revoked = session.execute(
        update(Token)
        .where(Token.id == token_id, Token.user_id == owner_id, Token.revoked_at.is_(None))
        .values(revoked_at=func.now())
        .returning(Token.id)
    ).one_or_none()
    if revoked is None:
        raise TokenNotFound(token=str(token_id))


def describe(token: Token) -> schemas.Token:
    """The token as the REST interface shows it, without its secret."""
    return schemas.Token(
        id=token.id,
        name=token.name,
        scope=Scope(token.scope),
        created_at=token.created_at,
        expires_at=token.expires_at,
    )


def _has_not_expired() -> ColumnElement[bool]:
    return or_(Token.expires_at.is_(None), Token.expires_at > func.now())


def _issue(session: Session, user_id: UUID, scope: Scope, name: str, expires: timedelta | None) -> tuple[str, Token]:
    plaintext = PREFIX + secrets.token_urlsafe(32)
    token = Token(user_id=user_id, name=name, sha256=_sha256(plaintext), scope=Scope(scope).value)
    if expires is not None:
        token.expires_at = func.now() + expires
    session.add(token)
    session.flush()
    session.refresh(token)
    return plaintext, token


def _sha256(plaintext: str) -> str:
    return hashlib.sha256(plaintext.encode("utf-8", "surrogatepass")).hexdigest()
