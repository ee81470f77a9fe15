"""The course of one hyperparameter of a trial in this process: what a server reads with SQL."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import itemgetter

from nestor.schemas import (
    Distribution,
    DistributionColumns,
    HyperparameterInfo,
    HyperparameterSummary,
    Step,
    TensorSummary,
)
from nestor.schemas.thinning import doubling_interval, intervals

FIELDS = tuple(TensorSummary.model_fields)


def summary(
    info: HyperparameterInfo,
    steps: Sequence[Step],
    kept: Mapping[int, Mapping[str, Distribution]],
    *,
    max_points: int,
    seq: int,
) -> HyperparameterSummary:
    """The statistics of the steps that a plot needs, and the distributions, up to `max_points` of each.

    Args:
        kept: step → name → distribution.
    """
    rows = [step.hyperparameters[info.name] for step in steps]
    values = {name: [_finite(getattr(row, name)) for row in rows] for name in FIELDS}
    chosen = range(len(steps)) if len(steps) <= max_points else thinned(list(values.values()), max_points)
    columns: dict[str, list[float | None]] = {"number": [steps[i].number for i in chosen]}
    columns |= {name: [column[i] for i in chosen] for name, column in values.items()}
    return HyperparameterSummary(
        **dict(info),
        columns=columns,
        distributions=_distributions(info.name, kept, len(steps), max_points),
        seq=seq,
    )


def thinned(columns: Sequence[Sequence[float | None]], max_points: int) -> list[int]:
    """The places, at most `max_points`, of the first and the last row, the last value of each column, and its extremes.

    These are its lowest and highest value in each of equal intervals; of equal ones the first.
    """
    n_rows = len(columns[0])
    n_intervals = intervals(len(columns), max_points)
    found = {0, n_rows - 1}
    for column in columns:
        parts: dict[int, list[tuple[float, int]]] = {}
        for i, value in enumerate(column):
            if value is not None:
                parts.setdefault(i * n_intervals // n_rows, []).append((value, i))
        found |= {choose(part, key=itemgetter(0))[1] for part in parts.values() for choose in (min, max)}
        found |= {part[-1][1] for part in list(parts.values())[-1:]}
    return sorted(found)


def _distributions(
    name: str, kept: Mapping[int, Mapping[str, Distribution]], n_steps: int, max_points: int
) -> DistributionColumns:
    interval = doubling_interval(n_steps, max_points - 2)  # besides step 0 and the newest one
    newest = max(kept, default=0)
    numbers = [
        number for number in sorted(kept) if (number % interval == 0 or number == newest) and name in kept[number]
    ]
    found = [kept[number][name] for number in numbers]
    columns = {field: [getattr(one, field) for one in found] for field in Distribution.model_fields}
    return DistributionColumns(number=numbers, **columns)


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None
