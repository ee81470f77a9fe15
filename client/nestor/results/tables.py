"""Steps and trials as table rows, for CSV files and data frames."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO, cast

from nestor.schemas import Step, Trial

if TYPE_CHECKING:
    import numpy

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
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


TRIAL_FIELDS = ("number", "state", "step", "n_steps", "value", "best_value", "best_step", "started_at", "finished_at")


def step_rows(steps: Iterable[Step]) -> list[dict[str, Any]]:
    """One row per step, with entries of mappings as columns such as `val_metrics.accuracy`."""
    return [dotted(step.model_dump()) | {"warnings": " ".join(step.warnings)} for step in steps]


def trial_row(record: Trial) -> dict[str, Any]:
    """What a trial's record says of its course, with user attributes as columns `user_attrs_<key>`."""
    row = {field: getattr(record, field) for field in TRIAL_FIELDS} | {"state": record.state.value, "duration": None}
    row |= {"verdict": None, "verdict_code": None}
    if record.verdict is not None:
        row |= {"verdict": record.verdict.answer, "verdict_code": record.verdict.code}
    if record.started_at is not None and record.finished_at is not None:
        row["duration"] = record.finished_at - record.started_at
    return row | {f"user_attrs_{key}": value for key, value in record.user_attrs.items()}


def option_rows(records: Sequence[Trial], *, every: bool = False) -> list[dict[str, Any]]:
    """The options of each trial, as columns such as `inner.lr`: those in which the trials differ, or all.

    An option that only some trials have, such as the momentum of their inner optimizer, is None in the others.
    """
    rows = [dotted(record.spec.model_dump(mode="json", exclude={"problem", "user_attrs"})) for record in records]
    names = dict.fromkeys(name for row in rows for name in row)
    chosen = [name for name in names if every or any(row.get(name) != rows[0].get(name) for row in rows)]
    return [{name: row.get(name) for name in chosen} for row in rows]


def metric_row(last: Sequence[Step]) -> dict[str, float]:
    """The metrics of the last of some steps, as columns such as `val_metrics.accuracy`; none without steps."""
    if not last:
        return {}
    return dotted(
        {"val_metrics": last[-1].val_metrics, "metrics": last[-1].metrics, "test_metrics": last[-1].test_metrics}
    )


def dotted(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dots between the parts of a name; an empty mapping leaves no entry."""
    row: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            row |= dotted(cast("Mapping[str, Any]", value), f"{prefix}{name}.")
        else:
            row[f"{prefix}{name}"] = value
    return row


def distribution_row(named: Mapping[str, numpy.ndarray], *, quantiles: bool) -> dict[str, float]:
    """Count, min, max, mean and std of all entries together and, with `quantiles`, columns such as "50%"."""
    import numpy as np

    values = np.concatenate([array.ravel() for array in named.values()]).astype(np.float64)
    shares = QUANTILES if quantiles else ()
    summary = {
        "count": values.size,
        "min": values.min(),
        "max": values.max(),
        "mean": values.mean(),
        "std": values.std(),
    }
    return summary | {f"{q:.0%}": value for q, value in zip(shares, np.quantile(values, shares), strict=True)}
