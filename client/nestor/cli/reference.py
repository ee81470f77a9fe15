"""The reference page of all commands: `python -m nestor.cli.reference > docs/cli.md`."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Any

import typer
import typer.main

from nestor.cli.application import application

if TYPE_CHECKING:
    from collections.abc import Iterator

INTRODUCTION = """# Command line

Every command of `nestor`, with its arguments and options. This page is written by `python -m nestor.cli.reference` from
the commands themselves; do not edit it. `up`, `server`, `worker`, `migrate`, `token create`, `user` and the larger part
of `doctor` are for operators, and need the extras of the [README](../README.md#as-a-service).

```console
$ nestor study create digits
digits
$ nestor submit trial.json --study digits
digits/0  019ad2c6-1f0e-7cc1-a4f5-6f1b3d8f2f10
$ nestor watch digits/0
$ nestor export digits/0 --csv steps.csv
steps.csv
$ nestor export digits/0 --json - | jq .trial.best_value
```

**Trials** are named by their study and number, such as `digits/0`, or by their id. The name of a study may contain
slashes: the last one separates.

**Server and token** are those of `NESTOR_SERVER` and `NESTOR_TOKEN`; else those that `nestor up` saved. `--server`
names another server. `nestor doctor` checks both.

**Output.** Results go to standard output, errors to standard error. With `--json`, a command prints one JSON document;
`watch`, `logs` and `submit --watch` print one document per line. Times are in UTC.

**Exit status.** 0: done. 1: an error; standard error says what is wrong and what to do. 2: the command was mistyped.
130: Ctrl-C.

**Completion.** `nestor --install-completion` adds commands, options, and the names of your studies and trials to the
completion of bash, zsh, fish or PowerShell.
"""


def reference() -> str:
    """The page, as Markdown."""
    app, _ = application()
    group = typer.main.get_command(app)
    return "\n".join([INTRODUCTION, *_sections(group, typer.Context(group, info_name="nestor"))])


def _sections(group: Any, context: typer.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = typer.Context(command, info_name=name, parent=context)
        if hasattr(command, "commands"):
            if command.invoke_without_command:
                yield _section(command, inner)
            yield from _sections(command, inner)
        else:
            yield _section(command, inner)


def _section(command: Any, context: typer.Context) -> str:
    arguments = [one.metavar or one.name.upper() for one in command.params if one.param_type_name == "argument"]
    usage = " ".join([context.command_path, *arguments, "[OPTIONS]"])
    paragraphs = [textwrap.fill(paragraph, 120) for paragraph in re.split(r"\n\s*\n", command.help.strip())]
    records = [one.get_help_record(context) for one in command.params]
    rows = "\n".join(f"- `{names}`: {' '.join(about.split())}" for names, about in filter(None, records))
    return "\n\n".join([f"## {context.command_path}", f"`{usage}`", *paragraphs, rows]) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
