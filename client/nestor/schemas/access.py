"""Who may do what, and with what kind of server."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from nestor.options.base import Whole, about
from nestor.schemas.base import Name, Schema


class Scope(StrEnum):
    """What a token permits; each scope includes those before it."""

    read = "read"
    write = "write"
    admin = "admin"


class TokenCreate(Schema):
    """A token to create."""

    name: Annotated[Name, about("tells your tokens apart; need not be unique")] = "token"
    scope: Annotated[Scope, about("what it permits")] = Scope.write
    expires_in_days: Annotated[
        Annotated[Whole, Field(ge=1, le=3650)] | None, about("null: it does not expire", unit="days", example=90)
    ] = None


class Token(Schema):
    """A token without its secret."""

    id: Annotated[UUID, about("revokes the token: DELETE /api/v1/tokens/{id}")]
    name: Annotated[str, about("as it was created", example="laptop")]
    scope: Annotated[Scope, about("what it permits")]
    created_at: Annotated[datetime, about("in UTC")]
    expires_at: Annotated[datetime | None, about("in UTC; null: it does not expire")]


class TokenCreated(Token):
    """A new token with its secret, which no other response contains."""

    token: Annotated[str, about("the secret; the server stores only its SHA-256", example="nst_" + 43 * "x")]


class TokenPage(Schema):
    """Some of your tokens."""

    items: Annotated[tuple[Token, ...], about("at most as many as `limit`")]
    next_cursor: Annotated[
        str | None, about("pass it as `cursor` to get the next page; null: the last page", example="IjAxOGYi")
    ] = None


class SessionCreate(Schema):
    """A token, exchanged for the cookie that a browser keeps."""

    token: Annotated[
        str, StringConstraints(min_length=1, max_length=200), about("the secret of a token", example="nst_" + 43 * "x")
    ]


class Me(Schema):
    """The user of the request's token."""

    user: Annotated[str, about("name of the user", example="ada")]
    scope: Annotated[Scope, about("what the token permits")]


class Worker(Schema):
    """A worker that can run trials: one process, or one slot of a process with several."""

    id: Annotated[
        str, about("host and process; a process with several slots appends the slot's number", example="gpu-1:4242")
    ]
    device: Annotated[str, about("what it trains on, such as cpu or cuda:0", example="cuda:0")]
    versions: Annotated[
        dict[str, str], about("installed versions by package, such as torch", example={"torch": "2.13.0"})
    ]
    heartbeat_at: Annotated[datetime, about("when it last reported, in UTC")]
    busy: Annotated[bool, about("whether it runs a trial, of any user")]
    trial: Annotated[UUID | None, about("the trial that it runs, if it is yours")]


class Workers(Schema):
    """The running workers, and what waits for them."""

    items: Annotated[tuple[Worker, ...], about("by id")]
    queued: Annotated[int, about("number of trials that wait for a worker, of all users", example=2)]


class Version(Schema):
    """The versions of a server."""

    nestor: Annotated[str, about("version of the package", example="0.4.0")]
    api: Annotated[str, about("version of the paths, such as v1", example="v1")]


class Health(Schema):
    """Whether a server can serve requests."""

    status: Annotated[Literal["ok", "unavailable"], about("unavailable if any check failed")]
    checks: Annotated[
        dict[str, str], about("ok, or what is wrong, for each part that the server needs", example={"database": "ok"})
    ]
