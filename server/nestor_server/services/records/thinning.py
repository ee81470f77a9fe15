"""Which of a long trial's steps a plot needs, found in SQL.

They are the first, the last, and the last with a value of each column of numbers; and of each of many equal intervals
those with the lowest and the highest value of each of these columns, so that no spike disappears.
"""

from __future__ import annotations

from collections.abc import Sequence

from nestor.schemas import TensorSummary
from nestor_server.models import NUMBERS

NUMERIC = frozenset(NUMBERS)
SUMMARIZED = tuple(TensorSummary.model_fields)  # of a hyperparameter; all are numbers
RANGE = "trial_id = :trial AND number > :after AND number <= :until"


def of_steps(names: Sequence[str], *, has_older: bool) -> list[str]:
    """The columns of `names` that are numbers, or else the step's number, as `kept` takes them.

    Args:
        has_older: some steps have no `StepNumbers`; `older` is the last of them.
    """
    fields = [name for name in names if name in NUMERIC]
    if not fields:
        return [f"SELECT number, number::float8 AS v0 FROM steps WHERE {RANGE}"]
    found = [f"SELECT number, {_cells(fields)} FROM step_numbers WHERE {RANGE}"]
    if has_older:
        # As in `steps`, `data` is decompressed once.
        records = f"SELECT number, data || '{{}}' AS data FROM steps WHERE {RANGE} AND number <= :older OFFSET 0"
        found.append(f"SELECT number, {_cells(_numbers(fields))} FROM ({records}) AS older")
    return found


def of_hyperparameter() -> list[str]:
    """The summaries of the hyperparameter `name`, as `kept` takes them, of each step that is a multiple of `stride`."""
    records = f"""
        SELECT number, data->'hyperparameters'->CAST(:name AS text) AS data FROM steps
        WHERE {RANGE} AND (number % :stride = 0 OR number IN (:after + 1, :until)) OFFSET 0
    """
    return [f"SELECT number, {_cells(_numbers(SUMMARIZED))} FROM ({records}) AS considered"]


def kept(points: Sequence[str], columns: int) -> str:
    """A condition, in SQL, that holds for the steps that a plot of so many columns needs.

    Its parameters are `trial`, `after` and `until`, which bound the numbers of the steps, `intervals`, and those of
    `points`.

    Args:
        points: queries that together have the number of each step, and its columns `v0`, `v1`, …
    """
    cells = [f"v{i}" for i in range(columns)]
    bounds = ", ".join(f"min({cell}) AS low_{cell}, max({cell}) AS high_{cell}" for cell in cells)
    # Of equal values the first stays.
    extremes = ", ".join(
        f"min(number) FILTER (WHERE {cell} = {end}_{cell})" for cell in cells for end in ("low", "high")
    )
    latest = ", ".join(f"max(number) FILTER (WHERE {cell} IS NOT NULL) AS last_{cell}" for cell in cells)
    ends = ", ".join(["min(first)", "max(last)", *(f"max(last_{cell})" for cell in cells)])
    # Each value is extracted once: the rest works on numbers alone.
    return f"""
        AND number <= :until AND number = ANY (ARRAY(
            WITH points AS MATERIALIZED (
                SELECT *, (number - :after - 1)::bigint * :intervals / (:until - :after) AS interval
                FROM ({" UNION ALL ".join(points)}) AS considered
            ),
            bounds AS (SELECT interval, {bounds} FROM points GROUP BY interval),
            found AS (
                SELECT ARRAY[{extremes}] AS extremes, min(number) AS first, max(number) AS last, {latest}
                FROM points JOIN bounds USING (interval) GROUP BY interval
            )
            SELECT unnest(extremes) FROM found UNION ALL SELECT unnest(ARRAY[{ends}]) FROM found
        ))
    """


def _numbers(names: Sequence[str]) -> list[str]:
    return [f"(data->>'{name}')::float8" for name in names]


def _cells(values: Sequence[str]) -> str:
    return ", ".join(f"{value} AS v{i}" for i, value in enumerate(values))
