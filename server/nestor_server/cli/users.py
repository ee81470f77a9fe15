"""`nestor token create` and `nestor user`: who may use the server, read from its database."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import UUID

import typer

from nestor.cli.output import moment, print_json, print_table, print_tokens
from nestor_server.cli.operating import HomeOption, JsonOption, need, operating, say

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

token_app = typer.Typer(help="Tokens, which let users into a server.", no_args_is_help=True)
user_app = typer.Typer(help="The users of a server, for its operator.", no_args_is_help=True)

ScopeName = Literal["read", "write", "admin"]  # nestor.schemas.Scope, whose import would take most of the start
UserArgument = Annotated[str, typer.Argument(help="The user's name, as `nestor user list` shows it.", metavar="USER")]


@contextmanager
def _database(command: str, home: Path | None) -> Generator[Session]:
    """A transaction on NESTOR_DATABASE_URL, else on the database of the running `nestor up`."""
    with operating():
        need("sqlalchemy", f"nestor {command}", extra="server")
        from nestor_server.embedded.access import database_settings, describe_database_errors, transaction

        with describe_database_errors(home), transaction(database_settings(home)) as session:
            yield session


@token_app.command("create")
def create_token(
    user: Annotated[str, typer.Option(help="The user it belongs to; created if missing.")] = "local",
    scope: Annotated[
        ScopeName, typer.Option(help="What it allows; write includes read, admin includes write.")
    ] = "write",
    name: Annotated[str, typer.Option(help="A name that describes its use.")] = "token",
    expires_in_days: Annotated[
        float | None, typer.Option(help="Default: 365.", min=0.0, max=36_500.0, show_default=False)
    ] = None,
    never: Annotated[bool, typer.Option("--never", help="It never expires.")] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Create a token and print it. It cannot be shown again: the database stores only its hash."""
    if never and expires_in_days is not None:
        raise typer.BadParameter(
            "Leave it out: with --never the token does not expire.", param_hint="--expires-in-days"
        )
    with _database("token create", home) as session:
        from datetime import timedelta

        from nestor.schemas import Scope
        from nestor_server.services.access import tokens

        lasts = tokens.LIFETIME if expires_in_days is None else timedelta(days=expires_in_days)
        token = tokens.create(session, user, Scope(scope), name, None if never else lasts)
    if json:
        return print_json({"token": token, "user": user, "scope": scope, "name": name})
    return say(token)


@user_app.command("list")
def list_users(home: HomeOption = None, json: JsonOption = False) -> None:
    """List the users of this server's database, and what they take of it."""
    with _database("user list", home) as session:
        from nestor_server.services.access import users

        found = users.usage(session)
    if json:
        return print_json([one.model_dump(mode="json") for one in found])
    heads = ("user", "tokens", "last used", "studies", "trials", "unfinished", "GB stored")
    rows = [
        (
            one.user, str(one.tokens), moment(one.last_used_at), str(one.studies), str(one.trials),
            str(one.unfinished_trials), f"{one.bytes / 1e9:.3f}",
        )
        for one in found
    ]  # fmt: skip
    return print_table(heads, rows, optional=("last used",))


@user_app.command("tokens")
def list_tokens(user: UserArgument, home: HomeOption = None, json: JsonOption = False) -> None:
    """List the valid tokens of a user, without their secrets."""
    with _database("user tokens", home) as session:
        from nestor_server.services.access import users

        found = users.tokens_of(session, user)
    return print_tokens(found, json=json)


@user_app.command("revoke")
def revoke_tokens(
    user: UserArgument,
    token: Annotated[
        UUID | None, typer.Option("--token", help="Only this one, by its id. Default: all of the user's tokens.")
    ] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Revoke the tokens of a user with immediate effect. Their sessions in browsers and their event streams end."""
    with _database("user revoke", home) as session:
        from nestor_server.services.access import users

        revoked = users.revoke(session, user, token)
    if json:
        return print_json({"revoked": [str(one) for one in revoked]})
    return say(f"Revoked {len(revoked)} {'token' if len(revoked) == 1 else 'tokens'} of {user!r}.")
