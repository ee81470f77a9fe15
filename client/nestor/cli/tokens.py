"""Commands about the tokens of a user."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from nestor.cli.arguments import JsonOption, ServerOption, connect
from nestor.cli.output import print_json, print_tokens

app = typer.Typer()
token_app = typer.Typer(help="Tokens, which let users into a server.", no_args_is_help=True)
app.add_typer(token_app, name="token")


@token_app.command("list")
def list_tokens(server: ServerOption = None, json: JsonOption = False) -> None:
    """List your valid tokens, without their secrets."""
    with connect(server) as client:
        found = client.tokens()
    print_tokens(found, json=json)


@token_app.command("revoke")
def revoke_token(
    token: Annotated[UUID, typer.Argument(help="The token's id, as `nestor token list` shows it.", metavar="ID")],
    server: ServerOption = None,
    json: JsonOption = False,
) -> None:
    """Revoke one of your tokens with immediate effect.

    Every token can revoke itself. A token that may write can also revoke others that may not do more.
    """
    with connect(server) as client:
        client.revoke_token(token)
    return print_json({"revoked": str(token)}) if json else print(f"Revoked token {token}.")
