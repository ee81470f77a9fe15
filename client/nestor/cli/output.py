"""How commands print: JSON documents, and tables that fit the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nestor.remote.client import Client
    from nestor.schemas import Token
    from nestor.schemas import Trial as TrialRecord

PIPE_COLUMNS = 200  # a pipe has no width
ID_COLUMNS = 120  # from this width on, tables have the ids of trials


def print_json(document: object) -> None:
    """Print a document that JSON can hold, over several lines."""
    import json

    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, optional: Iterable[str] = ()) -> None:
    """Print rows under their heads. Columns in `optional` are left out if all of their cells are empty."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    shown = [i for i, head in enumerate(heads) if head not in set(optional) or any(row[i] for row in rows)]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for i in shown:
        table.add_column(heads[i], no_wrap=heads[i] == "id", overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[i]) for i in shown))  # as Text, because rich takes brackets in a name for markup
    Console(width=columns()).print(table)


def print_trials(records: Iterable[TrialRecord], study: str) -> None:
    """Print trials of one study as a table."""
    heads = ("trial", "id", "state", "priority", "step", "best value", "verdict", "error", "can")
    rows: list[tuple[str, ...]] = []
    for record in records:
        known = f"{study}/{record.number}", str(record.id) if columns() >= ID_COLUMNS else "", record.state.value
        priority = str(record.priority) if record.priority else ""
        error = (record.error or {}).get("detail", "")
        step = f"{record.step}/{record.n_steps}"
        verdict = "" if record.verdict is None else record.verdict.answer
        best, can = number(record.best_value), ", ".join(record.allowed_actions)
        rows.append((*known, priority, step, best, verdict, error, can))
    print_table(heads, rows, optional=("id", "priority", "verdict", "error"))


def print_trial(client: Client, record: TrialRecord, *, json: bool) -> None:
    """Print one trial, as JSON or as a table with the whole verdict."""
    if json:
        return print_json(record.model_dump(mode="json"))
    print_trials([record], client.study(record.study_id).name)
    if record.verdict is not None:
        print(f"verdict: {record.verdict}")


def print_tokens(found: Sequence[Token], *, json: bool) -> None:
    """Print tokens, as JSON or as a table."""
    if json:
        return print_json([token.model_dump(mode="json") for token in found])
    heads = ("id", "name", "scope", "created", "expires", "last used")
    rows = [
        (
            str(one.id), one.name, one.scope.value, f"{one.created_at:%Y-%m-%d}",
            f"{one.expires_at:%Y-%m-%d}" if one.expires_at else "never", moment(one.last_used_at),
        )
        for one in found
    ]  # fmt: skip
    return print_table(heads, rows, optional=("last used",))


def columns() -> int:
    """The width of the output: of the terminal, or of a pipe."""
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_COLUMNS


def number(value: float | None) -> str:
    """A number with six digits; nothing for None."""
    return "" if value is None else f"{value:.6g}"


def moment(at: datetime | None) -> str:
    """A time to the second, in UTC as on the wire; nothing for None."""
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S}"
