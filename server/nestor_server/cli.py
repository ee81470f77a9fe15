"""The commands of operators: `nestor up`, `server`, `migrate`, `token`, `doctor`."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from nestor.errors import MissingExtra, NestorError

# The entry point group nestor.commands lists this module, so every `nestor …` loads it.
# Slow imports are therefore inside the commands.

app = typer.Typer(no_args_is_help=True)
token_app = typer.Typer(help="Tokens, which let users into a server.", no_args_is_help=True)
app.add_typer(token_app, name="token")

ScopeName = Literal["read", "write", "admin"]  # nestor.schemas.Scope, whose import would take most of the start

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        help="Directory of data, logs and secrets. Default: NESTOR_HOME, else /var/lib/nestor for root, "
        "else the user's data directory.",
    ),
]

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]


@contextmanager
def _operating() -> Generator[None]:
    """Keep the variables of other programs out, and print a `NestorError` as its sentence, with exit status 1."""
    from nestor_server.embedded.environment import restrict

    restrict()
    try:
        yield
    except NestorError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error


@app.command()
def up(
    home: HomeOption = None,
    port: Annotated[int, typer.Option(help="0 chooses any free port.", min=0, max=65_535)] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on. With 0.0.0.0 other machines can connect; they need a token too.")
    ] = "127.0.0.1",
    workers: Annotated[
        int,
        typer.Option(help="Number of workers, which divide the machine's GPUs and cores among them.", min=1, max=256),
    ] = 1,
) -> None:
    """Run everything on this machine: PostgreSQL, Valkey, API server, dashboard and workers.

    If NESTOR_DATABASE_URL or NESTOR_REDIS_URL is set, that server is used instead of an own PostgreSQL or Valkey.
    """
    with _operating():
        _need("sqlalchemy", "nestor up", extra="embedded")
        _need("torch", "nestor up (its worker)", extra="worker")
        from nestor_server.embedded.access import save_credentials
        from nestor_server.embedded.home import default_home
        from nestor_server.embedded.stack import Stack, Stopped, stop_on_signals

        stop_on_signals()
        try:
            with Stack(home or default_home(), host=host, port=port, workers=workers, say=_say) as stack:
                _say(f"Nestor is up: {stack.url}/#token={stack.token}")
                _say(f"  data  {stack.home.path}")
                _say(f"  logs  {stack.home.log('{' + ','.join(stack.names) + '}')}")
                if reason := save_credentials(stack.url, stack.token):
                    _say(f"  The token could not be saved for clients ({reason}); pass it as NESTOR_TOKEN.")
                _say("Ctrl-C stops everything; the data stay.")
                try:
                    stack.watch()
                except Stopped:
                    _say("Stopping: workers, server, databases.")
        except Stopped:  # during startup
            pass
        _say("Stopped.")


@app.command()
def server(
    port: Annotated[int | None, typer.Option(help="Default: NESTOR_PORT, else 8000.", min=0, max=65_535)] = None,
    host: Annotated[str | None, typer.Option(help="Default: NESTOR_HOST, else 127.0.0.1.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Number of server processes. Default: NESTOR_SERVER_WORKERS, else 1.", min=1, max=256),
    ] = None,
) -> None:
    """Run only the API server, with NESTOR_DATABASE_URL and NESTOR_REDIS_URL."""
    with _operating():
        _need("sqlalchemy", "nestor server", extra="server")
        from nestor_server.serve import serve

        serve(host=host, port=port, workers=workers)


@app.command()
def migrate(home: HomeOption = None, json: JsonOption = False) -> None:
    """Upgrade the schema of a database: NESTOR_DATABASE_URL, else that of the running `nestor up`."""
    with _operating():
        _need("sqlalchemy", "nestor migrate", extra="server")
        from nestor_server import revisions
        from nestor_server.embedded.access import database_settings, describe_database_errors

        with describe_database_errors(home):
            revisions.migrate(database_settings(home).database_url)
        head = revisions.head()
    _say_json({"revision": head}) if json else _say(f"The database is at revision {head}.")


@token_app.command("create")
def create_token(
    user: Annotated[str, typer.Option(help="The user it belongs to; created if missing.")] = "local",
    scope: Annotated[
        ScopeName, typer.Option(help="What it allows; write includes read, admin includes write.")
    ] = "write",
    name: Annotated[str, typer.Option(help="A name that describes its use.")] = "token",
    expires_in_days: Annotated[float | None, typer.Option(help="Default: it never expires.", min=0.0)] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Create a token and print it. It cannot be shown again: the database stores only its hash."""
    with _operating():
        _need("sqlalchemy", "nestor token create", extra="server")
        from nestor.schemas import Scope
        from nestor_server.embedded.access import create_token, database_settings

        token = create_token(database_settings(home), user, Scope(scope), name, expires_in_days)
    _say_json({"token": token, "user": user, "scope": scope, "name": name}) if json else _say(token)


@app.command()
def doctor(home: HomeOption = None, json: JsonOption = False) -> None:
    """Check this installation, NESTOR_SERVER and NESTOR_TOKEN, and print remedies. If any is wrong, exit with 1."""
    from dataclasses import asdict

    with _operating():
        from nestor_server.client_checks import CheckResult, examine_client

        if _is_installed("sqlalchemy"):
            from nestor_server.doctor import examine, examine_plugins
            from nestor_server.embedded.home import default_home

            results = [*examine(home or default_home()), *examine_plugins(), *examine_client()]
        else:
            only = CheckResult(True, "only the client is installed here; nestor[server] would add the rest")
            results = [only, *examine_client()]
    is_ok = all(result.ok for result in results)
    if json:
        _say_json({"ok": is_ok, "checks": [asdict(result) for result in results]})
    for result in () if json else results:
        _say(f"{'ok ' if result.ok else 'BAD'}  {result.message}")
        if result.remedy:
            _say(f"     → {result.remedy}")
    if not is_ok:
        raise typer.Exit(1)


def _is_installed(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


def _need(module: str, what: str, *, extra: str) -> None:
    if not _is_installed(module):
        raise MissingExtra(what=what, package=module, extra=extra)


def _say(line: str) -> None:
    print(line, flush=True)  # flush: pipes are buffered


def _say_json(document: object) -> None:
    import json

    _say(json.dumps(document, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(app())
