"""Steps as table rows, for CSV files and data frames."""

from __future__ import annotations

import csv
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
    """Write a header and one row per step. `stream` must not translate newlines (`newline=""`)."""
    rows = [flat(step) for step in steps]
    columns = list(dict.fromkeys(name for row in rows for name in row)) or [*Step.model_fields]
    writer = csv.DictWriter(stream, columns)
    writer.writeheader()
    writer.writerows(rows)
