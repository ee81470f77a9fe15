"""The course of one hyperparameter: statistics of the steps that a plot needs, and distributions. PostgreSQL writes it.

Each answer is bounded: in points, in the steps whose records are read, and in the distributions that a trial keeps.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from nestor.errors import HyperparameterUnknown
from nestor.schemas import DEFAULT_POINTS, MOST_STEPS, Distribution, HyperparameterInfo
from nestor.schemas.thinning import doubling_interval, intervals
from nestor_server.models import Trial
from nestor_server.services import versions
from nestor_server.services.records import thinning
from nestor_server.services.trials import queries
from nestor_server.services.versions import OF_TRIAL, Versioned

MAX_STEPS = 100_000  # of one answer
MAX_SUMMARIES = 500_000  # in the records of the steps that are considered: each has those of all hyperparameters
DISTRIBUTED = tuple(Distribution.model_fields)


def summary(
    session: Session, owner_id: UUID, trial_id: UUID, name: str, *, after: int = 0, max_points: int = DEFAULT_POINTS
) -> Versioned:
    """A `schemas.HyperparameterSummary` of the steps whose number is above `after`, and of step 0 if that is 0.

    Args:
        max_points: the most steps of each kind that are returned; see `thinning`. Of a trial with many hyperparameters,
            only the multiples of a number are considered, so that at most `MAX_SUMMARIES` are read.

    Raises:
        HyperparameterUnknown, TrialNotFound: raised by the functions of the result.
    """
    after = min(after, MOST_STEPS)

    def read() -> tuple[bytes, str]:
        trial = queries.read(session, owner_id, trial_id, Trial.step, Trial.hyperparameters, *OF_TRIAL)
        declared: list[dict[str, Any]] = trial.hyperparameters or []
        found = next((item for item in declared if item["name"] == name), None)
        if found is None:
            raise HyperparameterUnknown(trial=str(trial_id), name=name, hparams=[item["name"] for item in declared])
        until = min(after + MAX_STEPS, trial.step)
        stride = -(-max(1, until - after) * len(declared) // MAX_SUMMARIES)
        thins = until - after > max_points or stride > 1
        given = {
            "trial": trial_id,
            "name": name,
            "after": after,
            "until": until,
            "stride": stride,
            "intervals": intervals(len(thinning.SUMMARIZED), max_points),
            "first": after + 1 if after else 0,
            "every": doubling_interval(until - after, max_points - 2),  # besides both ends
        }
        columns, distributions = session.execute(_statement(thins=thins), given).one()
        info = HyperparameterInfo.model_validate(found).model_dump_json().removesuffix("}")
        next_after = until if until < trial.step else "null"
        body = (
            f'{info},"columns":{columns},"distributions":{distributions},"seq":{trial.seq},"next_after":{next_after}}}'
        )
        return body.encode(), versions.of_trial(trial)

    return Versioned(lambda: queries.version(session, owner_id, trial_id), read)


@lru_cache(maxsize=2)
def _statement(*, thins: bool) -> TextClause:
    """Reads the columns and the distributions, each as JSON."""
    values = ", ".join(f"coalesce((data->'{name}')::text, 'null') AS \"{name}\"" for name in thinning.SUMMARIZED)
    parts = ", ".join(f"data->>'{name}' AS \"{name}\"" for name in DISTRIBUTED)
    kept = thinning.kept(thinning.of_hyperparameter(), len(thinning.SUMMARIZED)) if thins else ""
    # OFFSET 0 as in `steps`. A distribution is parsed once, and its parts are passed on as they are written.
    return text(f"""
        SELECT (
            SELECT {_lists(*thinning.SUMMARIZED)} FROM (
                SELECT number, {values} FROM (
                    SELECT number, data->'hyperparameters'->CAST(:name AS text) AS data FROM steps
                    WHERE {thinning.RANGE} {kept} OFFSET 0
                ) AS chosen OFFSET 0
            ) AS written
        ), (
            SELECT {_lists(*DISTRIBUTED)} FROM (
                SELECT number, {parts}
                FROM (
                    SELECT number, data->CAST(:name AS text) AS data FROM distributions
                    WHERE trial_id = :trial AND number >= :first AND number <= :until AND (number % :every = 0 OR
                        number = (SELECT max(number) FROM distributions WHERE trial_id = :trial))
                    OFFSET 0
                ) AS chosen WHERE data IS NOT NULL OFFSET 0
            ) AS written
        )
    """)


def _lists(*names: str) -> str:
    """A JSON object, in SQL: a list of the numbers of rows, and one of each column, which has JSON."""
    listed = {"number": "number::text", **{name: f'"{name}"' for name in names}}
    lists = (
        f"""'"{name}":[' || coalesce(string_agg({value}, ',' ORDER BY number), '') || ']'"""
        for name, value in listed.items()
    )
    return f"""'{{' || {" || ',' || ".join(lists)} || '}}'"""
