"""Commands that steer a trial: stop, prune, cancel, pause, resume, retry, extend, prioritize, confirm."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nestor.cli.arguments import JsonOption, ServerOption, TrialArgument, TrialName, connect, trial_id_of
from nestor.cli.output import print_json, print_table, print_trial

if TYPE_CHECKING:
    from nestor.schemas import Action

app = typer.Typer()


@app.command()
def stop(trial: TrialArgument, server: ServerOption = None, json: JsonOption = False) -> None:
    """End a trial and keep its result."""
    _request(trial, "stop", server, json=json)


@app.command()
def prune(trial: TrialArgument, server: ServerOption = None, json: JsonOption = False) -> None:
    """Give a trial up and keep what it recorded."""
    _request(trial, "prune", server, json=json)


@app.command()
def cancel(trial: TrialArgument, server: ServerOption = None, json: JsonOption = False) -> None:
    """End a trial as cancelled; its records stay readable."""
    _request(trial, "cancel", server, json=json)


@app.command()
def pause(trial: TrialArgument, server: ServerOption = None, json: JsonOption = False) -> None:
    """Write a checkpoint and free the device; `nestor resume` continues from there."""
    _request(trial, "pause", server, json=json)


@app.command()
def resume(trial: TrialArgument, server: ServerOption = None, json: JsonOption = False) -> None:
    """Queue a paused trial again."""
    _request(trial, "resume", server, json=json)


@app.command()
def retry(trial: TrialArgument, server: ServerOption = None, json: JsonOption = False) -> None:
    """Queue a failed trial again, from its newest checkpoint."""
    _request(trial, "retry", server, json=json)


@app.command()
def extend(
    trial: TrialArgument,
    steps: Annotated[int, typer.Argument(help="Number of additional outer steps.", min=1)],
    server: ServerOption = None,
    json: JsonOption = False,
) -> None:
    """Queue a complete, pruned or paused trial for more steps, from its current weights."""
    with connect(server) as client:
        print_trial(client, client.extend(trial_id_of(client, trial), steps), json=json)


@app.command(context_settings={"ignore_unknown_options": True})  # otherwise -5 would be an option
def prioritize(
    trial: TrialArgument,
    priority: Annotated[int, typer.Argument(help="A priority above 0 requires an admin token.", min=-1000, max=1000)],
    server: ServerOption = None,
    json: JsonOption = False,
) -> None:
    """Let a trial run before all trials of lower priority. The default is 0."""
    with connect(server) as client:
        print_trial(client, client.prioritize(trial_id_of(client, trial), priority), json=json)


@app.command()
def confirm(
    trial: TrialArgument,
    seeds: Annotated[int, typer.Option(help="Trainings on each kind of examples.", min=1, max=100)] = 3,
    on: Annotated[Literal["train", "train+val", "both"], typer.Option(help="Examples to train on.")] = "both",
    wait: Annotated[bool, typer.Option(help="Wait until the trainings are finished.")] = True,
    server: ServerOption = None,
    json: JsonOption = False,
) -> None:
    """Train from the first initialization under the best hyperparameters, and report both. Ctrl-C leaves it running."""
    from nestor.trial import Trial

    with connect(server) as client:
        record = client.trial(trial_id_of(client, trial))
        try:
            found = Trial(client, record).confirm(seeds, ("train", "train+val") if on == "both" else on, wait=wait)
        except KeyboardInterrupt:
            print(
                f"The trainings continue at {client.server}. Run the same command again to wait for them and to see "
                "what they found.",
                file=sys.stderr,
            )
            raise typer.Exit(130) from None
    if json:
        return print_json(found.model_dump(mode="json"))
    head, *rows = found.rows()
    return print_table(head, rows)


def _request(trial: TrialName, action: Action, server: str | None, *, json: bool) -> None:
    with connect(server) as client:
        print_trial(client, client.request(trial_id_of(client, trial), action), json=json)
