"""Joins the commands of all packages, runs them, and turns errors into sentences and exit statuses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from io import TextIOWrapper
from typing import Any, cast

import typer

from nestor.cli import export, server, steering, studies, submission, tokens, watching, webhooks
from nestor.errors import NestorError

OWN = (studies.app, submission.app, watching.app, steering.app, export.app, server.app, tokens.app, webhooks.app)


def main() -> None:
    """The entry point of `nestor` and `python -m nestor`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name may have characters that the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")
    app, missing = application()
    sys.exit(_run(app, missing))


def application() -> tuple[typer.Typer, dict[str, str]]:
    """All commands, and package → reason for installed packages whose commands could not be loaded."""
    loaded, missing = list(OWN), dict[str, str]()
    for found in entry_points(group="nestor.commands"):
        try:
            loaded.append(found.load())
        except ImportError as error:
            missing[found.name] = str(error)
    app = typer.Typer(
        name="nestor",
        help="Tune millions of hyperparameters while a model trains once.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    groups: dict[str, typer.Typer] = {}
    for one in loaded:
        app.registered_commands += one.registered_commands
        for group in one.registered_groups:  # `token create` is the server's, `token list` the client's
            name, commands = cast(str, group.name), cast(typer.Typer, group.typer_instance)
            if name not in groups:
                alone = commands.registered_callback  # what the group does without a command, as `workers`
                groups[name] = typer.Typer(help=commands.info.help, no_args_is_help=alone is None)
                groups[name].registered_callback = alone
                app.add_typer(groups[name], name=name)
            groups[name].registered_commands += commands.registered_commands
    return app, missing


def _run(command: Callable[[], object], missing: Mapping[str, str]) -> int:
    try:
        command()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if code == 2 and missing:
            for package, reason in missing.items():
                print(f"The commands of {package!r} could not be loaded: {reason}.", file=sys.stderr)
        return code
    except NestorError as error:
        print(*_sentences(error), sep="\n", file=sys.stderr)
        return 1
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _sentences(error: NestorError) -> list[str]:
    """The sentence of an error; of one about several fields, a line for each."""
    listed: Any = error.context.get("errors")
    if not isinstance(listed, list):
        return [str(error)]
    fields = [cast(dict[str, Any], one) for one in cast(list[Any], listed) if isinstance(one, dict)]
    return [str(one["message"]) for one in fields if "message" in one] or [str(error)]
