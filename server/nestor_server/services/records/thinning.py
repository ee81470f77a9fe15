"""Which of a long trial's steps a plot needs, found in SQL.

They are the first, the last, and the last with a value of each column of numbers; and of each of many equal intervals
those with the lowest and the highest value of each of these columns, so that no spike disappears.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from nestor import schemas

NUMERIC = frozenset(
    name
    for name, field in schemas.Step.model_fields.items()
    if cast(Any, field.annotation) in (int, float, int | None, float | None) and name != "number"
)
MIN_POINTS = 2 + 3 * len(NUMERIC)  # enough for one interval, whatever the columns


def intervals(names: Sequence[str], max_points: int) -> int:
    """The number of intervals for which at most `max_points` steps stay."""
    n = len(_values(names))
    return (max_points - 2 - n) // (2 * n)


def kept(names: Sequence[str]) -> str:
    """A condition, in SQL, that holds for the steps that a plot of these columns needs.

    Its parameters are `trial`, `after` and `until`, which bound the numbers of the steps, and `intervals`.
    """
    values = _values(names)
    cells = [f"v{i}" for i in range(len(values))]
    listed = ", ".join(f"{value} AS {cell}" for value, cell in zip(values, cells, strict=True))
    bounds = ", ".join(f"min({cell}) AS low_{cell}, max({cell}) AS high_{cell}" for cell in cells)
    # Of equal values the first stays.
    extremes = ", ".join(
        f"min(number) FILTER (WHERE {cell} = {end}_{cell})" for cell in cells for end in ("low", "high")
    )
    latest = ", ".join(f"max(number) FILTER (WHERE {cell} IS NOT NULL) AS last_{cell}" for cell in cells)
    ends = ", ".join(["min(first)", "max(last)", *(f"max(last_{cell})" for cell in cells)])
    # As in `steps`, `data` is decompressed once. Each value is extracted once: the rest works on numbers alone.
    return f"""
        AND number <= :until AND number = ANY (ARRAY(
            WITH points AS MATERIALIZED (
                SELECT number, (number - :after - 1)::bigint * :intervals / (:until - :after) AS interval, {listed}
                FROM (
                    SELECT number, data || '{{}}' AS data FROM steps
                    WHERE trial_id = :trial AND number > :after AND number <= :until OFFSET 0
                ) AS considered
            ),
            bounds AS (SELECT interval, {bounds} FROM points GROUP BY interval),
            found AS (
                SELECT ARRAY[{extremes}] AS extremes, min(number) AS first, max(number) AS last, {latest}
                FROM points JOIN bounds USING (interval) GROUP BY interval
            )
            SELECT unnest(extremes) FROM found UNION ALL SELECT unnest(ARRAY[{ends}]) FROM found
        ))
    """


def _values(names: Sequence[str]) -> list[str]:
    """The columns of numbers, in SQL; the number of the step if all columns are of another type."""
    return [f"(data->>'{name}')::float8" for name in names if name in NUMERIC] or ["number::float8"]
