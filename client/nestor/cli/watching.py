"""Commands that show what a trial does: watch, logs, attempts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import UUID

import typer

from nestor.cli.arguments import (
    JsonLinesOption,
    JsonOption,
    ServerOption,
    TrialArgument,
    connect,
    trial_id_of,
    trial_of,
)
from nestor.cli.output import moment, print_json, print_table, print_trials

if TYPE_CHECKING:
    from nestor.remote.client import Client
    from nestor.schemas import LogLine
    from nestor.schemas import Trial as TrialRecord

app = typer.Typer()

Level = Literal["info", "warning"]  # nestor.schemas.LogLevel, whose import would take most of the start


@app.command()
def watch(trial: TrialArgument, server: ServerOption = None, json: JsonLinesOption = False) -> None:
    """Follow a trial until it ends; with --json, print one line per step. Ctrl-C leaves it running."""
    with connect(server) as client:
        follow(client, trial_of(client, trial), json=json)


def follow(client: Client, record: TrialRecord, *, json: bool) -> None:
    """Show the steps of a trial until it ends, as lines of JSON or as a progress bar.

    Raises:
        TrialFailed: the trial failed; raised after its last step.
    """
    from nestor.results.progress.bar import show_verdict
    from nestor.trial import Trial

    watched = Trial(client, record)
    try:
        if json:
            for step in watched.stream():
                print(step.model_dump_json(), flush=True)
            show_verdict(watched.record, show=False)
        else:
            watched.wait(show_progress_bar=True)
            print_trials([watched.record], client.study(record.study_id).name)  # `wait` has printed the verdict
    except KeyboardInterrupt:
        print(client.detach(watched.record), file=sys.stderr)
        raise typer.Exit(130) from None


@app.command()
def logs(
    trial: TrialArgument,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for further lines until the trial ends.")
    ] = False,
    level: Annotated[Level, typer.Option(help="Print lines that are at least as urgent.")] = "info",
    server: ServerOption = None,
    json: JsonLinesOption = False,
) -> None:
    """Print the log of a trial: where it ran, and what was remarkable."""
    with connect(server) as client:
        for line in _lines(client, trial_id_of(client, trial), level, follow=follow):
            if json:
                print(line.model_dump_json(), flush=True)
            else:
                print(f"{moment(line.at)}  step {line.step}  {line.level}  {line.text}", flush=True)


def _lines(client: Client, trial: UUID, level: Level, *, follow: bool) -> Iterator[LogLine]:
    from nestor.schemas import EventType, LogLevel, LogLine

    last = 0
    for line in client.logs(trial, level=LogLevel(level)):
        last = line.seq
        yield line
    levels = list(LogLevel)
    for event in client.events(trial, after=last) if follow else ():
        if event.type is EventType.log and event.data["level"] in levels[levels.index(LogLevel(level)) :]:
            yield LogLine(seq=event.seq, **event.data)


@app.command()
def attempts(trial: TrialArgument, server: ServerOption = None, json: JsonOption = False) -> None:
    """List the attempts at a trial: worker, start, end, and why each ended."""
    with connect(server) as client:
        found = client.attempts(trial_id_of(client, trial))
    if json:
        return print_json([attempt.model_dump(mode="json") for attempt in found])
    rows = [
        (
            str(attempt.number),
            attempt.worker or "",
            moment(attempt.started_at),
            moment(attempt.ended_at),
            attempt.state.value,
            attempt.why or "",
        )
        for attempt in found
    ]
    return print_table(("attempt", "worker", "from", "to", "then", "because"), rows)
