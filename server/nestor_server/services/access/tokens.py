"""Tokens and the users that they stand for. A token is random, shown once, and stored as its SHA-256."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, DateTime, Uuid, and_, cast, func, or_, select, union, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.errors import Forbidden, TokenExpired, TokenNotFound, TokenRevoked, TokenUnknown, TooManyTokens
from nestor.schemas import TOKEN_DAYS, Scope
from nestor_server.models import BrowserSession, Token, User
from nestor_server.services.lists import paging, sorting

PREFIX = "nst_"  # lets people and secret scanners recognize a leaked token
LIFETIME = timedelta(days=TOKEN_DAYS)
MOST = 1_000  # valid ones of a user, apart from those that operators make
STORED = paging.stored_bytes(Token.name)
BY_AGE = sorting.Order("tokens", "created_at", sorting.Sort(Token.id, UUID), Token.id, descending=False)


@dataclass(frozen=True)
class Caller:
    """The user behind a token, and what the token may do.

    Attributes:
        credential_id: of what the request came with: the token, or the session of a browser.
    """

    user_id: UUID
    user: str
    scope: Scope
    token_id: UUID
    expires_at: datetime | None
    credential_id: UUID

    def may(self, scope: Scope) -> bool:
        """Whether the token's scope includes `scope`: admin includes write, and write includes read."""
        order = list(Scope)
        return order.index(self.scope) >= order.index(scope)

    def scope_to_revoke(self, token: Token) -> Scope:
        """Which scope it takes to revoke a token of the same user: none more than it has to revoke itself."""
        if token.id == self.token_id:
            return Scope.read
        return max(Scope.write, Scope(token.scope), key=list(Scope).index)


def create(
    session: Session,
    user_name: str,
    scope: Scope = Scope.write,
    name: str = "token",
    expires: timedelta | None = LIFETIME,
) -> str:
    """Create a token, and its user if that name is new. The return value is the only copy of the token.

    Args:
        expires: after which time; None: never.
    """
    session.execute(insert(User).values(name=user_name).on_conflict_do_nothing(index_elements=[User.name]))
    user = session.scalars(select(User).where(User.name == user_name)).one()
    plaintext, _ = _issue(session, user.id, scope, name, expires)
    return plaintext


def issue(session: Session, owner_id: UUID, new: schemas.TokenCreate) -> schemas.TokenCreated:
    """Create another token of the same user.

    Raises:
        TooManyTokens
    """
    valid = select(func.count()).select_from(Token).where(Token.user_id == owner_id, is_valid())
    if session.scalars(valid).one() >= MOST:
        raise TooManyTokens(limit=MOST)
    expires = None if new.expires_in_days is None else timedelta(days=new.expires_in_days)
    plaintext, token = _issue(session, owner_id, new.scope, new.name, expires)
    return schemas.TokenCreated(**describe(token).model_dump(), token=plaintext)


def authenticate(session: Session, plaintext: str) -> Caller:
    """The caller whose token this is.

    Raises:
        Unauthenticated: the token is unknown, expired or revoked.
    """
    return caller(session, Token.sha256 == sha256(plaintext))


def caller(session: Session, is_it: ColumnElement[bool], *, credential_id: UUID | None = None) -> Caller:
    """The caller with the token for which `is_it` holds.

    Args:
        credential_id: of the browser's session; None: the request came with the token.

    Raises:
        Unauthenticated: there is no such token, or it is expired or revoked.
    """
    row = session.execute(
        select(Token, User.name, (Token.expires_at <= func.now()).label("expired"))
        .join(User, User.id == Token.user_id)
        .where(is_it)
    ).one_or_none()
    if row is None:
        raise TokenUnknown(reason="this token is unknown")
    if row.Token.revoked_at is not None:
        raise TokenRevoked(reason="this token was revoked")
    if row.expired:
        raise TokenExpired(reason=f"this token expired on {row.Token.expires_at:%Y-%m-%d}")
    token = row.Token
    return Caller(token.user_id, row.name, Scope(token.scope), token.id, token.expires_at, credential_id or token.id)


def invalid(session: Session, credential_ids: Iterable[UUID]) -> set[UUID]:
    """Those of the tokens and the browsers' sessions that are no longer valid."""
    ids = set(credential_ids)
    valid = select(Token.id).where(Token.id.in_(ids), is_valid())
    sessions = select(BrowserSession.id).join(Token, Token.id == BrowserSession.token_id)
    sessions = sessions.where(BrowserSession.id.in_(ids), BrowserSession.expires_at > func.now(), is_valid())
    return ids.difference(session.scalars(union(valid, sessions)))


def record_uses(session: Session, used_at: Mapping[UUID, datetime]) -> None:
    """Record when tokens were used last."""
    ids, times = cast(list(used_at), ARRAY(Uuid)), cast(list(used_at.values()), ARRAY(DateTime(timezone=True)))
    uses = func.unnest(ids, times).table_valued("token_id", "at", name="uses").render_derived()
    latest = func.greatest(Token.last_used_at, uses.c.at)  # another server may have seen a later one
    found = update(Token).where(Token.id == uses.c.token_id).values(last_used_at=latest)
    session.execute(found.execution_options(synchronize_session=False))


def page(session: Session, me: Caller, *, cursor: str | None, limit: int) -> schemas.TokenPage:
    """The valid tokens of a user, oldest first.

    Raises:
        CursorInvalid: the cursor belongs to another list.
    """
    own = select(Token.id, STORED).where(Token.user_id == me.user_id, is_valid())
    index = BY_AGE.index(session, own, limit, cursor)
    tokens = index.arrange(session.scalars(select(Token).where(index.holds(Token.id))), Token.id)
    return schemas.TokenPage(items=tuple(describe(token, me) for token in tokens), next_cursor=index.next_cursor)


def revoke(session: Session, me: Caller, token_id: UUID) -> None:
    """End a token of this user: every token its own, one that may write also others that may not do more.

    Raises:
        TokenNotFound: the user has no such token, or it is revoked already.
        Forbidden
    """
    query = select(Token).where(Token.id == token_id, Token.user_id == me.user_id, Token.revoked_at.is_(None))
    token = session.scalars(query.with_for_update()).one_or_none()
    if token is None:
        raise TokenNotFound(token=str(token_id))
    needed = me.scope_to_revoke(token)
    if not me.may(needed):
        raise Forbidden(reason=f"its scope is {me.scope.value!r}", scope=needed.value)
    token.revoked_at = func.now()


def describe(token: Token, me: Caller | None = None) -> schemas.Token:
    """The token as the REST interface shows it to a caller, or to an operator, without its secret."""
    return schemas.Token(
        id=token.id,
        name=token.name,
        scope=Scope(token.scope),
        created_at=token.created_at,
        expires_at=token.expires_at,
        last_used_at=token.last_used_at,
        revocable=me is None or me.may(me.scope_to_revoke(token)),
    )


def describe_caller(caller: Caller) -> schemas.Me:
    """The caller as the REST interface shows it."""
    return schemas.Me(user=caller.user, scope=caller.scope, token_id=caller.token_id, expires_at=caller.expires_at)


def new_secret(prefix: str) -> tuple[str, str]:
    """A secret of 256 random bits, and what is stored of it."""
    plaintext = prefix + secrets.token_urlsafe(32)
    return plaintext, sha256(plaintext)


def sha256(plaintext: str) -> str:
    """What is stored of a secret."""
    return hashlib.sha256(plaintext.encode("utf-8", "surrogatepass")).hexdigest()


def is_valid() -> ColumnElement[bool]:
    """Whether a row of `Token` lets its user in."""
    return and_(Token.revoked_at.is_(None), or_(Token.expires_at.is_(None), Token.expires_at > func.now()))


def _issue(session: Session, user_id: UUID, scope: Scope, name: str, expires: timedelta | None) -> tuple[str, Token]:
    plaintext, stored = new_secret(PREFIX)
    token = Token(user_id=user_id, name=name, sha256=stored, scope=Scope(scope).value)
    if expires is not None:
        token.expires_at = func.now() + expires
    session.add(token)
    session.flush()
    session.refresh(token)
    return plaintext, token
