"""Commands about studies: list, create, delete, and their trials."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

import typer

from nestor.cli.arguments import JsonOption, ServerOption, StudyArgument, connect
from nestor.cli.output import moment, number, print_json, print_table, print_trial, print_trials
from nestor.errors import DeletionNotConfirmed

app = typer.Typer()
study_app = typer.Typer(
    help="One study: create, copy, delete or restore it, and show its note or its best trial.", no_args_is_help=True
)
app.add_typer(study_app, name="study")


Tag = Annotated[list[str] | None, typer.Option("--tag", help="Only those with this tag; may be repeated.")]
Query = Annotated[str | None, typer.Option("--q", help="Only those that contain this text.", metavar="TEXT")]
Direction = Literal["asc", "desc"]
StudySorting = Literal["created_at", "last_activity_at", "name", "best_value", "trials"]
TrialSorting = Literal["number", "state", "step", "best_value", "seconds"]
Order = Annotated[Direction, typer.Option(help="Ascending or descending.")]
NewName = Annotated[str | None, typer.Option("--name", help="A new name. Default: the one that it had.")]


@app.command()
def studies(
    tag: Tag = None,
    q: Query = None,
    sort: Annotated[StudySorting, typer.Option(help="What to sort by.")] = "created_at",
    order: Order = "desc",
    deleted: Annotated[bool, typer.Option("--deleted", help="Those that were deleted and can be restored.")] = False,
    server: ServerOption = None,
    json: JsonOption = False,
) -> None:
    """List your studies, newest first."""
    from nestor.ranking import Ranking

    with connect(server) as client:
        found = list(client.studies(tags=tag or (), q=q, sort=sort, order=order, deleted=deleted))
    if json:
        return print_json([study.model_dump(mode="json") for study in found])
    rows: list[tuple[str, ...]] = []
    for study in found:
        counts = ", ".join(f"{count} {state}" for state, count in study.trial_counts.items())
        active, until = moment(study.last_activity_at), moment(study.purged_after)
        rows.append((study.name, counts or "none", str(Ranking.of(study)), number(study.best_value), active, until))
    heads = ("study", "trials", "ranked by", "best value", "last activity", "restorable until")
    return print_table(heads, rows, optional=("restorable until",))


@app.command()
def trials(
    study: StudyArgument,
    tag: Tag = None,
    q: Query = None,
    sort: Annotated[TrialSorting, typer.Option(help="What to sort by.")] = "number",
    order: Order = "asc",
    server: ServerOption = None,
    json: JsonOption = False,
) -> None:
    """List the trials of a study."""
    with connect(server) as client:
        found = list(client.find_trials(client.find_study(study).id, tags=tag or (), q=q, sort=sort, order=order))
    if json:
        return print_json([record.model_dump(mode="json") for record in found])
    return print_trials(found, study)


@study_app.command("create")
def create_study(
    name: Annotated[str, typer.Argument(help="Unique among your studies.", metavar="STUDY")],
    tag: Annotated[list[str] | None, typer.Option(help="A label of the study; may be repeated.")] = None,
    attr: Annotated[
        list[str] | None,
        typer.Option(help="A user attribute, as KEY=VALUE; may be repeated. A value that is JSON is stored as such."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="A metric of the problem, by which trials are ranked. Default: the loss.", metavar="NAME"),
    ] = None,
    direction: Annotated[
        Literal["minimize", "maximize"] | None, typer.Option(help="Whether a lower or a higher metric is better.")
    ] = None,
    load_if_exists: Annotated[bool, typer.Option("--load-if-exists", help="Keep a study of that name.")] = False,
    server: ServerOption = None,
    json: JsonOption = False,
) -> None:
    """Create a study."""
    from nestor import schemas

    fields = {"name": name, "tags": tuple(tag or ()), "user_attrs": _attributes(attr or ())}
    ranking = {key: value for key, value in (("metric", metric), ("direction", direction)) if value is not None}
    new = schemas.build(schemas.StudyCreate, fields | ranking | {"load_if_exists": load_if_exists})
    with connect(server) as client:
        study = client.create_study(new)
    return print_json(study.model_dump(mode="json")) if json else print(study.name)


@study_app.command("delete")
def delete_study(
    study: StudyArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for a confirmation.")] = False,
    server: ServerOption = None,
    json: JsonOption = False,
) -> None:
    """Delete a study with its trials; unfinished ones are canceled."""
    with connect(server) as client:
        found = client.find_study(study)
        n_trials = sum(found.trial_counts.values())
        counted = "1 trial" if n_trials == 1 else f"{n_trials} trials"
        if not yes:
            if not sys.stdin.isatty():
                raise DeletionNotConfirmed(study=study)
            typer.confirm(f"Delete study {study!r} and its {counted}?", abort=True, err=True)
        client.delete_study(found.id)
    if json:
        return print_json({"study": study, "trials": n_trials})
    return print(f"Deleted study {study!r} and its {counted}.")


@study_app.command("restore")
def restore_study(
    study: Annotated[str, typer.Argument(help="Its name or its id.", metavar="STUDY")],
    name: NewName = None,
    server: ServerOption = None,
    json: JsonOption = False,
) -> None:
    """Take back the deletion of a study; of several of one name, the one that was created last."""
    from uuid import UUID

    from nestor.errors import StudyNotFound

    with connect(server) as client:
        try:
            study_id = UUID(study)
        except ValueError:
            found = next(client.studies(name=study, deleted=True), None)
            if found is None:
                raise StudyNotFound(study=study) from None
            study_id = found.id
        restored = client.restore_study(study_id, name)
    return print_json(restored.model_dump(mode="json")) if json else print(restored.name)


@study_app.command("copy")
def copy_study(
    study: StudyArgument,
    name: Annotated[str, typer.Argument(help="The name of the copy.", metavar="NAME")],
    server: ServerOption = None,
    json: JsonOption = False,
) -> None:
    """Copy a study, and its finished trials with all that they recorded."""
    with connect(server) as client:
        made = client.copy_study(client.find_study(study).id, name)
    return print_json(made.model_dump(mode="json")) if json else print(made.name)


@study_app.command("note")
def note(
    study: StudyArgument,
    text: Annotated[str | None, typer.Argument(help="The new note, in Markdown. Default: print it.")] = None,
    server: ServerOption = None,
    json: JsonOption = False,
) -> None:
    """Print the note of a study, or replace it."""
    from nestor import schemas

    with connect(server) as client:
        found = client.find_study(study)
        if text is not None:
            found = client.change_study(found.id, schemas.build(schemas.StudyPatch, {"note": text}))
    return print_json({"note": found.note}) if json else print(found.note)


@study_app.command("best")
def best_trial(study: StudyArgument, server: ServerOption = None, json: JsonOption = False) -> None:
    """Show the best trial of a study."""
    from nestor.study import Study

    with connect(server) as client:
        return print_trial(client, Study(client, client.find_study(study)).best_trial.record, json=json)


def _attributes(given: list[str] | tuple[()]) -> dict[str, Any]:
    import json

    attributes: dict[str, Any] = {}
    for one in given:
        key, separator, value = one.partition("=")
        if not (key and separator):
            raise typer.BadParameter(f"{one!r} is not KEY=VALUE.", param_hint="--attr")
        try:
            attributes[key] = json.loads(value)
        except ValueError:
            attributes[key] = value
    return attributes
