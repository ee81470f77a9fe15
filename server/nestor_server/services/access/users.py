"""Users as operators see them: what they take of the server, and the tokens that let them in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.errors import TokenNotFound
from nestor_server.embedded.errors import UserUnknown
from nestor_server.limits import quotas
from nestor_server.models import Token, User
from nestor_server.services.access import tokens


class Usage(BaseModel):
    """What a user takes of the server; see `quotas`."""

    user: str
    tokens: int
    last_used_at: datetime | None
    studies: int
    trials: int
    unfinished_trials: int
    bytes: int


def usage(session: Session) -> list[Usage]:
    """All users by name."""
    own = Token.user_id == User.id
    rows = session.execute(
        select(
            User.name.label("user"),
            select(func.count()).where(own, tokens.is_valid()).scalar_subquery().label("tokens"),
            select(func.max(Token.last_used_at)).where(own).scalar_subquery().label("last_used_at"),
            *(amount.label(name) for name, amount in zip(quotas.QUOTAS, quotas.usage(User.id), strict=True)),
        ).order_by(User.name)
    )
    return [Usage.model_validate(row, from_attributes=True) for row in rows]


def tokens_of(session: Session, name: str) -> list[schemas.Token]:
    """The valid tokens of a user, oldest first.

    Raises:
        UserUnknown
    """
    query = select(Token).where(Token.user_id == _find(session, name), tokens.is_valid()).order_by(Token.id)
    return [tokens.describe(token) for token in session.scalars(query)]


def revoke(session: Session, name: str, token_id: UUID | None = None) -> Sequence[UUID]:
    """End one token of a user, or all. Returns the ids of those that were valid.

    Raises:
        UserUnknown
        TokenNotFound: the user has no such token, or it is revoked already.
    """
    which = update(Token).where(Token.user_id == _find(session, name), tokens.is_valid())
    if token_id is not None:
        which = which.where(Token.id == token_id)
    revoked = session.scalars(which.values(revoked_at=func.now()).returning(Token.id)).all()
    if token_id is not None and not revoked:
        raise TokenNotFound(token=str(token_id))
    return revoked


def _find(session: Session, name: str) -> UUID:
    found = session.scalars(select(User.id).where(User.name == name)).one_or_none()
    if found is None:
        raise UserUnknown(user=name)
    return found
