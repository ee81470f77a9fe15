"""The command `nestor worker`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

app = typer.Typer()


class LogLevel(StrEnum):
    """The least urgent messages that are logged."""

    debug, info, warning, error = "debug", "info", "warning", "error"


@app.command()
def worker(
    concurrency: Annotated[
        int | None, typer.Option(help="Number of concurrent trials. Default: one per device.", min=1)
    ] = None,
    log_level: Annotated[LogLevel, typer.Option(help="What is logged.")] = LogLevel.info,
) -> None:
    """Run trials on this machine until SIGTERM or Ctrl-C. Running trials are then checkpointed and requeued."""
    from nestor.errors import NestorError
    from nestor_server.embedded.environment import restrict

    restrict()
    from nestor_server.observability import logs
    from nestor_server.settings import read_settings, settings
    from nestor_worker.app import serve
    from nestor_worker.options import Options

    given = {} if concurrency is None else {"concurrency": concurrency}
    try:
        logs.configure(settings().log_format, log_level.upper())
        code = serve(settings(), read_settings(Options, **given))
    except NestorError as error:
        typer.echo(str(error), err=True)
        code = 1
    raise typer.Exit(code)
