"""The commands of operators: `nestor up`, `server`, `migrate`, `token`, `user`, `doctor`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from nestor.cli.output import print_json
from nestor_server.cli.operating import HomeOption, JsonOption, is_installed, need, operating, say
from nestor_server.cli.users import token_app, user_app

# The entry point group nestor.commands lists this module, so every `nestor …` loads it.
# Slow imports are therefore inside the commands.

app = typer.Typer(no_args_is_help=True)
app.add_typer(token_app, name="token")
app.add_typer(user_app, name="user")


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
    with operating():
        need("sqlalchemy", "nestor up", extra="embedded")
        need("torch", "nestor up (its worker)", extra="worker")
        from nestor_server.embedded.access import save_credentials
        from nestor_server.embedded.home import default_home
        from nestor_server.embedded.stack import Stack, Stopped, stop_on_signals

        stop_on_signals()
        try:
            with Stack(home or default_home(), host=host, port=port, workers=workers, say=say) as stack:
                on_terminal = os.isatty(1)  # what else is written to may be kept, such as a journal
                say(f"Nestor is up: {stack.url}{f'/#token={stack.token}' if on_terminal else ''}")
                say(f"  data  {stack.home.path}")
                say(f"  logs  {stack.home.log('{' + ','.join(stack.names) + '}')}")
                if not on_terminal:
                    say(f"  token {stack.home.token_file}; `nestor token create` makes others")
                if reason := save_credentials(stack.url, stack.token):
                    say(f"  The token could not be saved for clients ({reason}); pass it as NESTOR_TOKEN.")
                say("Ctrl-C stops everything; the data stay.")
                try:
                    stack.watch()
                except Stopped:
                    say("Stopping: workers, server, databases.")
        except Stopped:  # during startup
            pass
        say("Stopped.")


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
    with operating():
        need("sqlalchemy", "nestor server", extra="server")
        from nestor_server.serve import serve

        serve(host=host, port=port, workers=workers)


@app.command()
def migrate(home: HomeOption = None, json: JsonOption = False) -> None:
    """Upgrade the schema of a database: NESTOR_DATABASE_URL, else that of the running `nestor up`.

    If NESTOR_SERVER_DATABASE_URL or NESTOR_WORKER_DATABASE_URL is set, create its role too, and grant it what the
    service needs.
    """
    with operating():
        need("sqlalchemy", "nestor migrate", extra="server")
        from nestor_server import revisions, roles
        from nestor_server.embedded.access import database_settings, describe_database_errors

        with describe_database_errors(home):
            settings = database_settings(home)
            revisions.migrate(settings.database_url)
            roles.admit(settings)
        head = revisions.head()
    print_json({"revision": head}) if json else say(f"The database is at revision {head}.")


@app.command()
def doctor(home: HomeOption = None, json: JsonOption = False) -> None:
    """Check this installation, NESTOR_SERVER and NESTOR_TOKEN, and print remedies. If any is wrong, exit with 1."""
    from dataclasses import asdict

    with operating():
        from nestor_server.client_checks import CheckResult, examine_client

        if is_installed("sqlalchemy"):
            from nestor_server.doctor import examine, examine_plugins
            from nestor_server.embedded.home import default_home

            results = [*examine(home or default_home()), *examine_plugins(), *examine_client()]
        else:
            only = CheckResult(True, "only the client is installed here; nestor[server] would add the rest")
            results = [only, *examine_client()]
    is_ok = all(result.ok for result in results)
    if json:
        print_json({"ok": is_ok, "checks": [asdict(result) for result in results]})
    for result in () if json else results:
        say(f"{'ok ' if result.ok else 'BAD'}  {result.message}")
        if result.remedy:
            say(f"     → {result.remedy}")
    if not is_ok:
        raise typer.Exit(1)
