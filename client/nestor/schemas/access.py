"""Who may do what, and with what kind of server."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from nestor.schemas.base import Name, Schema


class Scope(StrEnum):
    read = "read"
    write = "write"  # includes read
    admin = "admin"  # includes write


class TokenCreate(Schema):
    name: Name = "token"
    scope: Scope = Scope.write
    expires_in_days: Annotated[int, Field(ge=1, le=3650)] | None = None


class Token(Schema):
    id: UUID
    name: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None


class TokenCreated(Token):
    token: str  # shown this once; the server keeps its SHA-256 only


class TokenPage(Schema):
    items: tuple[Token, ...]
    next_cursor: str | None = None


class SessionCreate(Schema):
    """A token, exchanged for the cookie that a browser keeps."""

    token: Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Me(Schema):
    user: str
    scope: Scope


class Version(Schema):
    nestor: str
    api: str


class Health(Schema):
    status: Literal["ok", "unavailable"]
    checks: dict[str, str]
