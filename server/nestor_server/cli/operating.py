"""What all commands of operators share: their options, their errors, and how they print."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from nestor.errors import MissingExtra, NestorError

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        help="Directory of data, logs and secrets. Default: NESTOR_HOME, else /var/lib/nestor for root, "
        "else the user's data directory.",
    ),
]

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]


@contextmanager
def operating() -> Generator[None]:
    """Keep the variables of other programs out, and print a `NestorError` as its sentence, with exit status 1."""
    from nestor_server.embedded.environment import restrict

    restrict()
    try:
        yield
    except NestorError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error


def is_installed(module: str) -> bool:
    """Whether a module can be imported."""
    import importlib.util

    return importlib.util.find_spec(module) is not None


def need(module: str, what: str, *, extra: str) -> None:
    """Raise MissingExtra unless `module` is installed."""
    if not is_installed(module):
        raise MissingExtra(what=what, package=module, extra=extra)


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(line, flush=True)
