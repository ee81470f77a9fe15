"""Trials as an HTML table, for notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterable

from nestor.schemas import Trial


def table(records: Iterable[Trial]) -> str:
    """One row per trial."""
    heads = ("trial", "state", "step", "value", "best", "at step", "verdict", "error")
    rows = [
        (
            record.number,
            record.state.value,
            f"{record.step} / {record.n_steps}",
            _short(record.value),
            _short(record.best_value),
            record.best_step or "",
            record.verdict or "",
            (record.error or {}).get("detail", ""),
        )
        for record in records
    ]
    body = "".join(_row("td", row) for row in rows)
    return f"<table><thead>{_row('th', heads)}</thead><tbody>{body}</tbody></table>"


def _row(tag: str, cells: tuple[object, ...]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
