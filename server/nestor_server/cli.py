"""What an operator types: `nestor up`, `server`, `migrate`, `token`, `doctor`."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from nestor.errors import MissingExtra, NestorError
from nestor.schemas import Scope

# Found by its entry point in the group nestor.commands, and loaded with every `nestor …`:
# everything heavier is imported inside the commands.

app = typer.Typer(no_args_is_help=True)
token_app = typer.Typer(help="Tokens: who may use a server.", no_args_is_help=True)
app.add_typer(token_app, name="token")

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        help="Where data, logs and secrets are kept. Default: NESTOR_HOME, else /var/lib/nestor for root, "
        "else the user's data directory.",
    ),
]


@contextmanager
def _errors_in_a_sentence() -> Generator[None]:
    try:
        yield
    except NestorError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error


@app.command()
def up(
    home: HomeOption = None,
    port: Annotated[int, typer.Option(help="0 takes any port that is free.", min=0, max=65_535)] = 8000,
    host: Annotated[
        str, typer.Option(help="Which address to listen on. 0.0.0.0 lets other machines in; they need a token too.")
    ] = "127.0.0.1",
) -> None:
    """Run everything on this machine: PostgreSQL, Valkey, API server, dashboard and one worker.

    NESTOR_DATABASE_URL and NESTOR_REDIS_URL, each by itself, replace the PostgreSQL and the Valkey that it would start.
    """
    with _errors_in_a_sentence():
        _need("sqlalchemy", "nestor up", extra="embedded")
        _need("torch", "nestor up (its worker)", extra="worker")
        from nestor_server.embedded.access import remember
        from nestor_server.embedded.home import default_home
        from nestor_server.embedded.stack import Stack, Stopped, stop_on_signals

        stop_on_signals()
        try:
            with Stack(home or default_home(), host=host, port=port, say=_say) as stack:
                _say(f"Nestor is up: {stack.url}/#token={stack.token}")
                _say(f"  data  {stack.home.path}")
                _say(f"  logs  {stack.home.log('{' + ','.join(stack.names) + '}')}")
                if unwritten := remember(stack.url, stack.token):
                    _say(f"  The token could not be written for clients ({unwritten}); pass it as NESTOR_TOKEN.")
                _say("Ctrl-C stops all of it.")
                try:
                    stack.watch()
                except Stopped:
                    _say("Stopping: worker, server, databases.")
        except Stopped:  # before everything was up
            pass
        _say("Stopped.")


@app.command()
def server(
    port: Annotated[int | None, typer.Option(help="Default: NESTOR_PORT, else 8000.", min=0, max=65_535)] = None,
    host: Annotated[str | None, typer.Option(help="Default: NESTOR_HOST, else 127.0.0.1.")] = None,
) -> None:
    """Run the API server alone, on NESTOR_DATABASE_URL and NESTOR_REDIS_URL."""
    with _errors_in_a_sentence():
        _need("sqlalchemy", "nestor server", extra="server")
        from nestor_server.serve import serve

        serve(host=host, port=port)


@app.command()
def migrate(home: HomeOption = None) -> None:
    """Bring the database up to date: NESTOR_DATABASE_URL's, else that of the `nestor up` which runs here."""
    with _errors_in_a_sentence():
        _need("sqlalchemy", "nestor migrate", extra="server")
        from nestor_server import database
        from nestor_server.embedded.access import database_settings, in_a_sentence

        with in_a_sentence():
            database.migrate(database_settings(home).database_url)
        _say(f"The database is at revision {database.head()}.")


@token_app.command("create")
def create_token(
    user: Annotated[str, typer.Option(help="Whose studies it opens; made if there is no such user.")] = "local",
    scope: Annotated[Scope, typer.Option(help="What it may do.")] = Scope.write,
    name: Annotated[str, typer.Option(help="What it is for.")] = "token",
    expires_in_days: Annotated[float | None, typer.Option(help="Never by default.", min=0.0)] = None,
    home: HomeOption = None,
) -> None:
    """Make a token and print it, this once: the database holds its hash alone."""
    with _errors_in_a_sentence():
        _need("sqlalchemy", "nestor token create", extra="server")
        from nestor_server.embedded.access import create_token, database_settings

        print(create_token(database_settings(home), user, scope, name, expires_in_days))


@app.command()
def doctor(home: HomeOption = None) -> None:
    """Say what is wrong with this installation, and how to mend it."""
    with _errors_in_a_sentence():
        _need("sqlalchemy", "nestor doctor", extra="server")
        from nestor_server.doctor import examine
        from nestor_server.embedded.home import default_home

        findings = list(examine(home or default_home()))
    for finding in findings:
        _say(f"{'ok ' if finding.fine else 'BAD'}  {finding.what}")
        if finding.remedy:
            _say(f"     → {finding.remedy}")
    if not all(finding.fine for finding in findings):
        raise typer.Exit(1)


def _need(module: str, what: str, *, extra: str) -> None:
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise MissingExtra(what=what, package=module, extra=extra)


def _say(line: str) -> None:
    print(line, flush=True)  # at once, into a pipe too


if __name__ == "__main__":
    sys.exit(app())
