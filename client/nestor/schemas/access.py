"""Who may do what, and with what kind of server."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from nestor.options.base import Whole, about
from nestor.schemas.base import Name, Schema

TOKEN_DAYS = 365  # after which a token expires, unless it is made with another time


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
    ] = TOKEN_DAYS


class Token(Schema):
    """A token without its secret."""

    id: Annotated[UUID, about("revokes the token: DELETE /api/v1/tokens/{id}")]
    name: Annotated[str, about("as it was created", example="laptop")]
    scope: Annotated[Scope, about("what it permits")]
    created_at: Annotated[datetime, about("in UTC")]
    expires_at: Annotated[datetime | None, about("in UTC; null: it does not expire")]
    last_used_at: Annotated[datetime | None, about("in UTC, to the minute; null: it was not used yet")] = None
    revocable: Annotated[bool, about("whether the token of this request may revoke it")] = True


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
    token_id: Annotated[UUID | None, about("the `id` of the token; null: a server of an earlier version")] = None
    expires_at: Annotated[datetime | None, about("when the token expires, in UTC; null: it does not expire")] = None


class WorkerStatus(StrEnum):
    """What a worker does."""

    idle = "idle"
    busy = "busy"
    draining = "draining"  # it hands its trial over, and takes no more
    drained = "drained"


class Worker(Schema):
    """A worker that can run trials: one process, or one slot of a process with several."""

    id: Annotated[
        str,
        about("host and process; a process with several slots appends / and the slot's number", example="gpu-7:4711/0"),
    ]
    process: Annotated[str, about("host and process, which drains as a whole", example="gpu-7:4711")]
    slots: Annotated[int, about("slots of the process: the trials that it can run at a time", example=2)]
    busy_slots: Annotated[int, about("slots of the process that run a trial, of any user", example=1)]
    status: Annotated[
        WorkerStatus,
        about("drained: it runs nothing and takes nothing; a process whose slots are all drained can be stopped"),
    ]
    device: Annotated[str, about("what it trains on; several devices are separated by commas", example="cpu")]
    versions: Annotated[dict[str, str], about("installed versions by package", example={"torch": "2.13.0"})]
    started_at: Annotated[datetime, about("when the process took its first trials, in UTC")]
    heartbeat_at: Annotated[datetime, about("when it last reported, in UTC")]
    heartbeat_age_seconds: Annotated[
        float, about("time since then, by the clock of the database", unit="seconds", example=3.2)
    ]
    draining_since: Annotated[datetime | None, about("when it was asked to drain, in UTC; null: it takes trials")]
    busy: Annotated[bool, about("whether it runs a trial, of any user")]
    trial: Annotated[UUID | None, about("the trial that it runs, if it is yours")]
    study_id: Annotated[UUID | None, about("the study of this trial")]
    study: Annotated[str | None, about("the name of this study", example="digits-l2")]
    number: Annotated[int | None, about("the number of this trial in its study", example=3)]
    step: Annotated[int | None, about("the last recorded step of this trial", unit="outer steps", example=120)]
    n_steps: Annotated[int | None, about("the number of steps that this trial takes", unit="outer steps", example=500)]
    queue: Annotated[int, about("waiting trials of all users that it could run", example=0)]


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
