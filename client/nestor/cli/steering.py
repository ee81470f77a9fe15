"""Commands that steer a trial: stop, prune, cancel, pause, resume, retry, extend, prioritize, confirm, truth."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from nestor.cli.arguments import JsonOption, ServerOption, TrialArgument, TrialName, connect, trial_id_of
from nestor.cli.output import print_json, print_table, print_trial

if TYPE_CHECKING:
    from nestor.schemas import Action
    from nestor.trial import Trial

app = typer.Typer()

Report = TypeVar("Report")


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
    kinds = ("train", "train+val") if on == "both" else on
    found = _trained(trial, server, lambda tuned: tuned.confirm(seeds, kinds, wait=wait))
    if json:
        return print_json(found.model_dump(mode="json"))
    head, *rows = found.rows()
    return print_table(head, rows)


@app.command()
def truth(
    trial: TrialArgument,
    retrainings: Annotated[int, typer.Option(help="Trainings under changed hyperparameters.", min=5, max=100)] = 20,
    size: Annotated[float, typer.Option(help="Of the changes, before the transform.")] = 0.1,
    wait: Annotated[bool, typer.Option(help="Wait until the trainings are finished.")] = True,
    server: ServerOption = None,
    json: JsonOption = False,
) -> None:
    """Say whether the hypergradient predicts what retraining gives. Ctrl-C leaves the trainings running."""
    found = _trained(trial, server, lambda tuned: tuned.truth(retrainings, size, wait=wait))
    if json:
        return print_json(found.model_dump(mode="json"))
    return print(found.sentence)


def _trained(trial: TrialName, server: str | None, ask: Callable[[Trial], Report]) -> Report:
    """What `ask` finds of a trial; it may wait for trainings."""
    from nestor.trial import Trial

    with connect(server) as client:
        try:
            return ask(Trial(client, client.trial(trial_id_of(client, trial))))
        except KeyboardInterrupt:
            print(
                f"The trainings continue at {client.server}. Run the same command again to wait for them and to see "
                "what they found.",
                file=sys.stderr,
            )
            raise typer.Exit(130) from None


def _request(trial: TrialName, action: Action, server: str | None, *, json: bool) -> None:
    with connect(server) as client:
        print_trial(client, client.request(trial_id_of(client, trial), action), json=json)
