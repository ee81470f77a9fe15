"""Commands about the server: its version, its workers, and the problems that they build."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from nestor.cli.arguments import JsonOption, ServerOption, connect
from nestor.cli.output import moment, print_json, print_table

if TYPE_CHECKING:
    from nestor.schemas import Worker, Workers

WAIT_SECONDS = 1.0  # between two questions whether a worker is drained

app = typer.Typer()
worker_app = typer.Typer()
app.add_typer(worker_app, name="workers")


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


@worker_app.callback(invoke_without_command=True)
def workers(ctx: typer.Context, server: ServerOption = None, json: JsonOption = False) -> None:
    """List the running workers: their devices, what they run, and what waits for them."""
    if ctx.invoked_subcommand is not None:
        return
    with connect(server) as client:
        found = client.workers()
    _print_workers(found, json=json)


@worker_app.command("drain")
def drain_worker(
    worker: Annotated[str, typer.Argument(help="The worker's id, as `nestor workers` shows it.", metavar="WORKER")],
    undo: Annotated[bool, typer.Option("--undo", help="Let it take trials again.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it is drained, and can be stopped.")] = False,
    server: ServerOption = None,
    json: JsonOption = False,
) -> None:
    """Let a worker process hand its trials over and take no more. This requires an admin token.

    Each trial finishes its step, writes a checkpoint and waits for another worker. With several slots, all of them
    drain. A worker that is started again takes trials.
    """
    if undo and wait:
        raise typer.BadParameter("Leave it out: with --undo there is nothing to wait for.", param_hint="--wait")
    with connect(server) as client:
        found = client.undrain(worker) if undo else client.drain(worker)
        while wait and any(slot.draining_since and slot.busy for slot in found.items):
            time.sleep(WAIT_SECONDS)
            process = found.items[0].process
            found = client.workers()
            found = found.model_copy(update={"items": tuple(one for one in found.items if one.process == process)})
    _print_workers(found, json=json)


def _print_workers(found: Workers, *, json: bool) -> None:
    if json:
        return print_json(found.model_dump(mode="json"))
    rows = [
        (
            worker.id,
            worker.status.value,
            worker.device,
            _running(worker),
            str(worker.queue),
            f"{worker.heartbeat_age_seconds:.0f} s ago",
            moment(worker.started_at),
            ", ".join(f"{package} {installed}" for package, installed in worker.versions.items()),
        )
        for worker in found.items
    ]
    heads = ("worker", "status", "device", "runs", "queue", "heartbeat", "started", "versions")
    print_table(heads, rows, optional=("runs",))
    return print(f"{found.queued} {'trial waits' if found.queued == 1 else 'trials wait'} for a worker.")


def _running(worker: Worker) -> str:
    if worker.trial is None:
        return "a trial of another user" if worker.busy else ""
    return f"{worker.study}/{worker.number}, step {worker.step} of {worker.n_steps}"


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
