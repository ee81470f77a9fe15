"""Steps as table rows, for CSV files and data frames."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from typing import Any, TextIO

from nestor.schemas import Step

NESTED = ("val_metrics", "metrics", "test_metrics", "seconds")  # their entries become columns such as val_accuracy


def flat(step: Step) -> dict[str, Any]:
    """One step as one row: its mappings as columns of their own, its warnings in one cell."""
    row = step.model_dump()
    for name in NESTED:
        prefix = name.removesuffix("_metrics")
        row |= {f"{prefix}_{key}": value for key, value in row.pop(name).items()}
    return row | {"warnings": " ".join(step.warnings)}


def write_csv(steps: Iterable[Step], stream: TextIO) -> None:
    """Write a header and one row per step, with nested values as JSON.

    `stream` must not translate newlines (`newline=""`).
    """
    rows = [
        {name: _cell(value) for name, value in (flat(step) | {"warnings": step.warnings}).items()} for step in steps
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row)) or [*Step.model_fields]
    writer = csv.DictWriter(stream, columns)
    writer.writeheader()
    writer.writerows(rows)


def _cell(value: Any) -> Any:
    """What is not a number or a text as JSON, so that other programs can read it; nothing for None."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, bool | dict | list | tuple) else value
