"""The command `export`: results of a trial in files, or on standard output."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand

from nestor.cli.arguments import ServerOption, TrialArgument, connect, trial_of
from nestor.errors import BinaryOnTerminal, FileNotWritable, HyperparametersNotFound, WeightsUnnamed

if TYPE_CHECKING:
    from nestor.remote.client import Client
    from nestor.schemas import Trial as TrialRecord

app = typer.Typer()

STDOUT, BEST = "-", "best"
FORMATS = ("--safetensors", "--weights", "--rater", "--csv", "--json")
BINARY = {"--safetensors": "Hyperparameters", "--weights": "Weights", "--rater": "Raters"}  # which have a step, too


class ExportCommand(TyperCommand):
    """A command whose formats may stand without a file, which means standard output."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride] typer's own class
        """Add the file "-" to each format that is followed by nothing or by an option."""
        given: list[str] = []
        for i, arg in enumerate(args):
            given.append(arg)
            if arg in FORMATS and (i + 1 == len(args) or args[i + 1].startswith("--")):
                given.append(STDOUT)
        return super().parse_args(ctx, given)


@app.command(cls=ExportCommand)
def export(
    trial: TrialArgument,
    safetensors: Annotated[
        str | None, typer.Option(help="Write the hyperparameters, as safetensors.", metavar="[FILE|-]")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Write the trained weights and buffers by name, as safetensors.", metavar="[FILE|-]"),
    ] = None,
    rater: Annotated[
        str | None,
        typer.Option(
            help="Write the network of LossReweighting, as safetensors of its state_dict.", metavar="[FILE|-]"
        ),
    ] = None,
    rater_name: Annotated[
        str | None, typer.Option(help="Name of the LossReweighting. Default: loss_reweighting.", metavar="NAME")
    ] = None,
    csv: Annotated[
        str | None, typer.Option(help="Write a row per step. Nested cells are JSON.", metavar="[FILE|-]")
    ] = None,
    json: Annotated[
        str | None, typer.Option(help="Write the trial and its steps, as one JSON document.", metavar="[FILE|-]")
    ] = None,
    step: Annotated[
        str | None,
        typer.Option(
            help="Step of the hyperparameters, weights or rater: its number, or best. Default: the latest; of the "
            "rater, the best.",
            metavar="N|best",
        ),
    ] = None,
    server: ServerOption = None,
) -> None:
    """Save results of a trial. Without FILE, or with -, they go to standard output. Existing files are replaced."""
    targets = {
        name: file
        for name, file in zip(FORMATS, (safetensors, weights, rater, csv, json), strict=True)
        if file is not None
    }
    if not targets:
        raise typer.BadParameter(f"Pass {', '.join(f'{name} FILE' for name in FORMATS)}, or several of them.")
    if list(targets.values()).count(STDOUT) > 1:
        raise typer.BadParameter("Only one format can be written to standard output. Pass a FILE for the others.")
    if step is not None and not (step == BEST or (step.isascii() and step.isdecimal())):
        raise typer.BadParameter(f"{step!r} is neither a number nor best.", param_hint="--step")
    if step is not None and not targets.keys() & BINARY:
        raise typer.BadParameter(
            f"Pass one of {', '.join(BINARY)}, too. The others have all steps.", param_hint="--step"
        )
    if rater_name is not None and rater is None:
        raise typer.BadParameter("Pass --rater, too.", param_hint="--rater-name")
    if sys.stdout.isatty() and (shown := [what for name, what in BINARY.items() if targets.get(name) == STDOUT]):
        raise BinaryOnTerminal(what=shown[0])
    write_rater = partial(_rater, **({} if rater_name is None else {"name": rater_name}))
    contents: dict[str, Callable[[Client, TrialRecord, int | None], bytes]]
    contents = dict(zip(FORMATS, (_hyperparameters, _weights, write_rater, _csv, _json), strict=True))
    with connect(server) as client:
        record = trial_of(client, trial)
        wanted = record.best_step if step == BEST else None if step is None else int(step)
        if step == BEST and wanted is None:
            from nestor import lifecycle

            what = lifecycle.missing_step(BEST, None, client.hyperparameters(record.id).steps)
            raise HyperparametersNotFound(trial=str(record.id), what=what)
        for name, file in targets.items():
            _write(file, contents[name](client, record, wanted))
            if STDOUT not in targets.values():
                print(file)


def _hyperparameters(client: Client, trial: TrialRecord, step: int | None) -> bytes:
    return client.snapshot(trial.id, step)


def _weights(client: Client, trial: TrialRecord, step: int | None) -> bytes:
    from nestor.results.checkpoints import weights_of

    weights = weights_of(client.checkpoint(trial.id, "latest" if step is None else step))
    if weights is None:
        raise WeightsUnnamed(trial=str(trial.id))
    return weights


def _rater(client: Client, trial: TrialRecord, step: int | None, **named: str) -> bytes:
    return client.rater(trial.id, BEST if step is None else step, **named)


def _csv(client: Client, trial: TrialRecord, step: int | None) -> bytes:
    del step
    import io

    from nestor.results.tables import write_csv

    text = io.StringIO(newline="")
    write_csv(client.steps(trial.id), text)
    return text.getvalue().encode()


def _json(client: Client, trial: TrialRecord, step: int | None) -> bytes:
    del step
    import json

    steps = [one.model_dump(mode="json") for one in client.steps(trial.id)]
    document = {"trial": trial.model_dump(mode="json"), "steps": steps}
    return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n".encode()


def _write(file: str, content: bytes) -> None:
    if file == STDOUT:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        Path(file).write_bytes(content)
    except OSError as error:
        raise FileNotWritable(file=file, reason=error.strerror or error) from error
