"""Commands about the server: its version, its workers, the problems that they build, and tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from nestor.cli.arguments import JsonOption, ServerOption, connect
from nestor.cli.output import moment, print_json, print_table

if TYPE_CHECKING:
    from nestor.remote.client import Client
    from nestor.schemas import Worker

app = typer.Typer()
token_app = typer.Typer(help="Tokens, which let users into a server.", no_args_is_help=True)
app.add_typer(token_app, name="token")


@app.command()
def presets(server: ServerOption = None, json: JsonOption = False) -> None:
    """List the problems that workers build: presets, and the entry points of installed packages."""
    with connect(server) as client:
        found = client.presets()
    if json:
        return print_json(found.model_dump(mode="json"))
    rows = [("preset", preset.name, "", "", preset.description) for preset in found.presets]
    for point in found.entry_points:
        params = [one.name if one.required else f"{one.name}={one.default!r}" for one in point.parameters]
        about = point.error or point.description
        rows.append(("entry point", point.entry_point, point.package, ", ".join(params), about))
    return print_table(("kind", "name", "package", "params", "description"), rows, optional=("package", "params"))


@app.command()
def workers(server: ServerOption = None, json: JsonOption = False) -> None:
    """List the running workers: their devices, and what they run."""
    with connect(server) as client:
        found = client.workers()
        if json:
            return print_json(found.model_dump(mode="json"))
        rows = [
            (
                worker.id,
                worker.device,
                _running(client, worker),
                moment(worker.heartbeat_at),
                ", ".join(f"{package} {installed}" for package, installed in worker.versions.items()),
            )
            for worker in found.items
        ]
    print_table(("worker", "device", "runs", "last heartbeat", "versions"), rows)
    return print(f"{found.queued} {'trial waits' if found.queued == 1 else 'trials wait'} for a worker.")


def _running(client: Client, worker: Worker) -> str:
    if worker.trial is None:
        return "a trial of another user" if worker.busy else ""
    trial = client.trial(worker.trial)
    return f"{client.study(trial.study_id).name}/{trial.number}"


@app.command()
def version(server: ServerOption = None, json: JsonOption = False) -> None:
    """Print the installed version and, with --server, that of the server."""
    from nestor import __version__

    found = {"nestor": __version__}
    if server is not None:
        with connect(server) as client:
            found["server"] = client.version().nestor
    if json:
        return print_json(found)
    return print(*(f"{name} {number}" for name, number in found.items()), sep="\n")


@token_app.command("list")
def list_tokens(server: ServerOption = None, json: JsonOption = False) -> None:
    """List your valid tokens, without their secrets. This requires an admin token."""
    with connect(server) as client:
        found = client.tokens()
    if json:
        return print_json([token.model_dump(mode="json") for token in found])
    heads = ("id", "name", "scope", "created", "expires")
    dates = [(f"{one.created_at:%Y-%m-%d}", f"{one.expires_at:%Y-%m-%d}" if one.expires_at else "") for one in found]
    rows = [(str(one.id), one.name, one.scope.value, *both) for one, both in zip(found, dates, strict=True)]
    return print_table(heads, rows, optional=("expires",))


@token_app.command("revoke")
def revoke_token(
    token: Annotated[UUID, typer.Argument(help="The token's id, as `nestor token list` shows it.", metavar="ID")],
    server: ServerOption = None,
    json: JsonOption = False,
) -> None:
    """Revoke one of your tokens with immediate effect. This requires an admin token."""
    with connect(server) as client:
        client.revoke_token(token)
    return print_json({"revoked": str(token)}) if json else print(f"Revoked token {token}.")
