"""The tables of the rows: one for each part, whose columns are the names of its figures.

A count that is the same in all rows of a part, such as that of missed events, stands below the table.
"""

from __future__ import annotations

from itertools import groupby

from benchmarks.rows import Row

NOT_COLUMNS = ("part", "processes", "error")


def table(rows: list[Row]) -> str:
    """All parts as Markdown."""
    return "\n\n".join(_table(part, list(of_part)) for part, of_part in groupby(rows, lambda row: row["part"]))


def _table(part: str, rows: list[Row]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row if name not in NOT_COLUMNS))
    same = {name: rows[0][name] for name in columns if len(rows) > 1 and _is_same(name, rows)}
    columns = [name for name in columns if name not in same]
    lines = [f"**{part}**", "", "| " + " | ".join("" if name == "case" else name for name in columns) + " |"]
    lines.append("|" + "---|" * len(columns))
    for row in rows:
        cells = [shown(row.get(name)) for name in columns]
        if "error" in row:
            cells[1:2] = [row["error"]]
        lines.append("| " + " | ".join(cells) + " |")
    if same:
        lines += ["", "In all rows: " + ", ".join(f"{name} {shown(value)}" for name, value in same.items()) + "."]
    return "\n".join(lines)


def _is_same(name: str, rows: list[Row]) -> bool:
    found = {row.get(name) for row in rows}
    return len(found) == 1 and isinstance(found.pop(), int)


def shown(value: object) -> str:
    """A figure with three digits."""
    if not isinstance(value, float):
        return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.005 else f"{value:.2f}"
