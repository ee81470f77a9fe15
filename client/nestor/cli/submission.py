"""The command `submit`: a trial from a JSON document."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer

from nestor.cli.arguments import JsonLinesOption, ServerOption, complete_study, connect
from nestor.cli.output import print_json
from nestor.cli.watching import follow
from nestor.errors import DocumentNotJson, FileNotReadable, StudyNotFound, shown

if TYPE_CHECKING:
    from nestor.remote.client import Client
    from nestor.schemas import Study as StudyRecord

EXAMPLE = '{"problem": {"preset": {}}, "n_steps": 100}'

app = typer.Typer()


@app.command()
def submit(
    file: Annotated[str, typer.Argument(help="A JSON document, or - for standard input.", metavar="FILE")],
    study: Annotated[str, typer.Option(help="The study that the trial belongs to.", autocompletion=complete_study)],
    create: Annotated[bool, typer.Option("--create", help="Create the study if it does not exist.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the trial until it ends.")] = False,
    server: ServerOption = None,
    json: JsonLinesOption = False,
) -> None:
    """Queue a trial, and print its name and its id.

    The document is that of POST /api/v1/studies/{id}/trials: the problem, which is a preset, an entry point, or a
    program and a data set that were uploaded; and the options, as docs/options.md lists them. With --watch and --json,
    the first line is the trial, and each following line is a step.
    """
    from nestor import schemas

    spec = schemas.build(schemas.TrialCreate, read_document(file))
    with connect(server) as client:
        found = _study(client, study, create=create)
        trial = client.create_trial(found.id, spec)
        if json and watch:
            print(trial.model_dump_json(), flush=True)
        elif json:
            print_json(trial.model_dump(mode="json"))
        else:
            print(f"{found.name}/{trial.number}  {trial.id}", flush=True)
        if watch:
            follow(client, trial, json=json)


def _study(client: Client, name: str, *, create: bool) -> StudyRecord:
    try:
        return client.find_study(name)
    except StudyNotFound:
        if not create:
            raise
    from nestor import schemas

    return client.create_study(schemas.build(schemas.StudyCreate, {"name": name, "load_if_exists": True}))


def read_document(file: str) -> dict[str, Any]:
    """The JSON object in a file, or in standard input if `file` is "-".

    Raises:
        FileNotReadable
        DocumentNotJson: it is something else, repeats a name, or has a number that is not finite.
    """
    import json

    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise FileNotReadable(file=file, reason=error.strerror or error) from error
    where = "standard input" if file == "-" else file
    try:
        found: Any = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_object, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        reason = f"line {error.lineno}, column {error.colno}: {error.msg[:1].lower()}{error.msg[1:]}"
        raise DocumentNotJson(file=where, reason=reason, example=EXAMPLE) from None
    except UnicodeDecodeError as error:
        raise DocumentNotJson(file=where, reason=f"byte {error.start} is not UTF-8", example=EXAMPLE) from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise DocumentNotJson(file=where, reason=reason, example=EXAMPLE) from None
    if not isinstance(found, dict):
        raise DocumentNotJson(file=where, reason=f"it holds {shown(found)}", example=EXAMPLE)
    return cast(dict[str, Any], found)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"the name {shown(twice[0])} occurs twice in an object")
    return dict(pairs)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number in JSON")
