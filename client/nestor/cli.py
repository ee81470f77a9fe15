"""The `nestor` command: studies and trials of a server, and the commands of other installed packages.

Results go to standard output, as one JSON document with --json. Errors are one sentence on standard error. The exit
status is 1 after an error, 2 after a mistyped command, and 130 after Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from nestor.errors import NestorError

if TYPE_CHECKING:
    from nestor.remote.client import Client
    from nestor.schemas import Action
    from nestor.schemas import Trial as TrialRecord
    from nestor.trial import Trial

app = typer.Typer(
    name="nestor",
    help="Tune millions of hyperparameters while a model trains once.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

ServerOption = Annotated[
    str | None,
    typer.Option("--server", help="Address. Default: NESTOR_SERVER, else the server whose token was saved last."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]
TrialId = Annotated[UUID, typer.Argument(help="The trial's id, as `nestor trials STUDY` shows it.", metavar="TRIAL")]


@app.command()
def studies(server: ServerOption = None, json: JsonOption = False) -> None:
    """List your studies, newest first."""
    from nestor.lifecycle import Ranking

    with _client(server) as client:
        found = list(client.studies())
    if json:
        return _print_json([study.model_dump(mode="json") for study in found])
    heads = ("study", "trials", "ranked by", "best value", "last change")
    rows: list[tuple[str, ...]] = []
    for study in found:
        counts = ", ".join(f"{count} {state}" for state, count in study.trial_counts.items())
        ranked, changed = str(Ranking(study.metric, study.direction)), f"{study.updated_at:%Y-%m-%d %H:%M}"
        rows.append((study.name, counts or "none", ranked, _number(study.best_value), changed))
    return _print_table(heads, rows)


@app.command()
def trials(
    study: Annotated[str, typer.Argument(help="The study's name.", metavar="STUDY")],
    server: ServerOption = None,
    json: JsonOption = False,
) -> None:
    """List the trials of a study."""
    with _client(server) as client:
        _show_trials(client.trials(client.find_study(study).id), json=json)


@app.command()
def watch(trial: TrialId, server: ServerOption = None, json: JsonOption = False) -> None:
    """Follow a trial until it ends; with --json, print one line per step. Ctrl-C leaves it running."""
    with _client(server) as client:
        watched = _trial(client, trial)
        try:
            if json:
                for step in watched.stream():
                    print(step.model_dump_json(), flush=True)
            else:
                watched.wait(show_progress_bar=True)
                _show_trials([watched.record], json=False)
        except KeyboardInterrupt:
            print(client.detach(watched.record), file=sys.stderr)
            raise typer.Exit(130) from None


@app.command()
def stop(trial: TrialId, server: ServerOption = None, json: JsonOption = False) -> None:
    """End a trial and keep its result."""
    _request(trial, "stop", server, json=json)


@app.command()
def cancel(trial: TrialId, server: ServerOption = None, json: JsonOption = False) -> None:
    """End a trial as cancelled; its records stay readable."""
    _request(trial, "cancel", server, json=json)


@app.command()
def pause(trial: TrialId, server: ServerOption = None, json: JsonOption = False) -> None:
    """Write a checkpoint and free the device; `nestor resume` continues from there."""
    _request(trial, "pause", server, json=json)


@app.command()
def prune(trial: TrialId, server: ServerOption = None, json: JsonOption = False) -> None:
    """Give a trial up and keep what it recorded."""
    _request(trial, "prune", server, json=json)


@app.command()
def resume(trial: TrialId, server: ServerOption = None, json: JsonOption = False) -> None:
    """Queue a paused trial again."""
    _request(trial, "resume", server, json=json)


@app.command()
def retry(trial: TrialId, server: ServerOption = None, json: JsonOption = False) -> None:
    """Queue a failed trial again, from its newest checkpoint."""
    _request(trial, "retry", server, json=json)


@app.command()
def extend(
    trial: TrialId,
    steps: Annotated[int, typer.Argument(help="Number of additional outer steps.", min=1)],
    server: ServerOption = None,
    json: JsonOption = False,
) -> None:
    """Queue a complete, pruned or paused trial for more steps, from its current weights."""
    with _client(server) as client:
        _show_trials([client.extend(trial, steps)], json=json, one=True)


@app.command(context_settings={"ignore_unknown_options": True})  # otherwise -5 would be an option
def prioritize(
    trial: TrialId,
    priority: Annotated[int, typer.Argument(help="A priority above 0 requires an admin token.", min=-1000, max=1000)],
    server: ServerOption = None,
    json: JsonOption = False,
) -> None:
    """Let a trial run before all trials of lower priority. The default is 0."""
    with _client(server) as client:
        _show_trials([client.prioritize(trial, priority)], json=json, one=True)


@app.command()
def attempts(trial: TrialId, server: ServerOption = None, json: JsonOption = False) -> None:
    """List the attempts at a trial: worker, start, end, and why each ended."""
    with _client(server) as client:
        found = client.attempts(trial)
    if json:
        return _print_json([attempt.model_dump(mode="json") for attempt in found])
    rows = [
        (
            str(attempt.number),
            attempt.worker or "",
            f"{attempt.started_at:%Y-%m-%d %H:%M:%S}",
            "" if attempt.ended_at is None else f"{attempt.ended_at:%Y-%m-%d %H:%M:%S}",
            attempt.state.value,
            attempt.why or "",
        )
        for attempt in found
    ]
    return _print_table(("attempt", "worker", "from", "to", "then", "because"), rows)


@app.command()
def export(
    trial: TrialId,
    safetensors: Annotated[Path | None, typer.Option(help="File to write the hyperparameters to.")] = None,
    csv: Annotated[Path | None, typer.Option(help="File to write the steps to.")] = None,
    step: Annotated[int | None, typer.Option(help="Step of the hyperparameters. Default: the latest.", min=0)] = None,
    server: ServerOption = None,
    json: JsonOption = False,
) -> None:
    """Save the hyperparameters or the steps of a trial: --safetensors FILE, --csv FILE, or both."""
    if safetensors is None and csv is None:
        raise typer.BadParameter("Pass --safetensors FILE, --csv FILE, or both.")
    written: dict[str, str] = {}
    with _client(server) as client:
        if safetensors is not None:
            safetensors.write_bytes(client.snapshot(trial, step))
            written["safetensors"] = str(safetensors)
        if csv is not None:
            from nestor.results.tables import write_csv

            with csv.open("w", newline="", encoding="utf-8") as stream:
                write_csv(client.steps(trial), stream)
            written["csv"] = str(csv)
    if json:
        return _print_json(written)
    return print(*written.values(), sep="\n")


@app.command()
def presets(server: ServerOption = None, json: JsonOption = False) -> None:
    """List the problems that workers build: presets, and the entry points of installed packages."""
    with _client(server) as client:
        found = client.presets()
    if json:
        return _print_json(found.model_dump(mode="json"))
    rows = [("preset", preset.name, "", "", preset.description) for preset in found.presets]
    for point in found.entry_points:
        params = [one.name if one.required else f"{one.name}={one.default!r}" for one in point.parameters]
        about = point.error or point.description
        rows.append(("entry point", point.entry_point, point.package, ", ".join(params), about))
    return _print_table(("kind", "name", "package", "params", "description"), rows)


@app.command()
def version(server: ServerOption = None, json: JsonOption = False) -> None:
    """Print the installed version and, with --server, that of the server."""
    from nestor import __version__

    found = {"nestor": __version__}
    if server is not None:
        with _client(server) as client:
            found["server"] = client.version().nestor
    if json:
        return _print_json(found)
    return print(*(f"{name} {number}" for name, number in found.items()), sep="\n")


def _request(trial: UUID, action: Action, server: str | None, *, json: bool) -> None:
    with _client(server) as client:
        _show_trials([client.request(trial, action)], json=json, one=True)


def _client(server: str | None) -> Client:
    from nestor.remote.client import Client

    return Client(server)


def _trial(client: Client, trial_id: UUID) -> Trial:
    from nestor.trial import Trial

    return Trial(client, client.trial(trial_id))


def _show_trials(records: list[TrialRecord], *, json: bool, one: bool = False) -> None:
    if json:
        dumped = [record.model_dump(mode="json") for record in records]
        return _print_json(dumped[0] if one else dumped)
    heads = ("trial", "id", "state", "priority", "step", "best value", "error", "can")
    rows: list[tuple[str, ...]] = []
    for record in records:
        error = (record.error or {}).get("detail", "")
        step = f"{record.step}/{record.n_steps}"
        known = str(record.number), str(record.id), record.state.value, str(record.priority)
        rows.append((*known, step, _number(record.best_value), error, ", ".join(record.allowed_actions)))
    return _print_table(heads, rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _print_json(document: object) -> None:
    import json

    print(json.dumps(document, indent=2, ensure_ascii=False))


def _print_table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in heads:
        table.add_column(head, no_wrap=head == "id", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # as Text, because rich takes brackets in a name for markup
    # A pipe has no width.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _add_commands() -> dict[str, str]:
    """Add the commands of the installed packages. Returns package → reason for those that could not be loaded."""
    missing: dict[str, str] = {}
    for found in entry_points(group="nestor.commands"):
        try:
            app.add_typer(found.load())
        except ImportError as error:
            missing[found.name] = str(error)
    return missing


def main() -> None:
    """The entry point of `nestor` and `python -m nestor`."""
    missing = _add_commands()
    sys.exit(_run(app, missing))


def _run(command: Callable[[], object], missing: dict[str, str]) -> int:
    try:
        command()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if code == 2 and missing:
            for package, reason in missing.items():
                print(f"The commands of {package!r} could not be loaded: {reason}.", file=sys.stderr)
        return code
    except (NestorError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    main()
