"""Users as operators see them: what they take of the server, and the tokens that let them in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import ColumnElement, Select, func, select, update
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.errors import TokenNotFound
from nestor.schemas import State
from nestor_server.embedded.errors import UserUnknown
from nestor_server.models import Blob, Study, Token, Trial, User
from nestor_server.services.access import tokens

FINISHED = [state.value for state in State if state.finished]


class Usage(BaseModel):
    """What a user takes of the server."""

    user: str
    tokens: int
    last_used_at: datetime | None
    studies: int
    unfinished_trials: int
    bytes: int


def usage(session: Session) -> list[Usage]:
    """All users by name."""
    of_user = Study.owner_id == User.id, Study.deleted_at.is_(None)
    unfinished = select(func.count()).join_from(Study, Trial).where(*of_user, Trial.state.not_in(FINISHED))
    rows = session.execute(
        select(
            User.name.label("user"),
            _of(User.id, select(func.count()).where(tokens.is_valid()), Token.user_id).label("tokens"),
            _of(User.id, select(func.max(Token.last_used_at)), Token.user_id).label("last_used_at"),
            select(func.count()).select_from(Study).where(*of_user).scalar_subquery().label("studies"),
            unfinished.scalar_subquery().label("unfinished_trials"),
            _of(User.id, select(func.coalesce(func.sum(Blob.size), 0)), Blob.owner_id).label("bytes"),
        ).order_by(User.name)
    )
    return [Usage.model_validate(row, from_attributes=True) for row in rows]


def _of(user_id: Any, query: Select[Any], owner: Any) -> ColumnElement[Any]:
    return query.where(owner == user_id).scalar_subquery()


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
