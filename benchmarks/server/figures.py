"""Figures of a row: quantiles of times, counts of answers, and what the observer saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.rows import Row
from benchmarks.server.load import NO_ANSWER, Answer


def quantiles(seconds: Sequence[float] | np.ndarray, what: str = "") -> Row:
    """The median, the 95th percentile and the maximum, in milliseconds; nothing if there are no times."""
    if not len(seconds):
        return {}
    values = 1_000 * np.asarray(seconds, dtype=float)
    named = {"p50": np.median(values), "p95": np.quantile(values, 0.95), "max": values.max()}
    return {f"{what} {name}, ms".strip(): float(value) for name, value in named.items()}


def times(answers: Sequence[Answer]) -> list[float]:
    """The seconds of the answers with a status of success or 304."""
    return [answer.seconds for answer in answers if 200 <= answer.status < 400]


def status(answer: Answer) -> str:
    """How answers are counted."""
    return "no answer" if answer.status == NO_ANSWER else str(answer.status)


def counts(answers: Sequence[Answer]) -> Row:
    """The number of answers of each status, and of refusals that say when to ask again."""
    found: Row = dict(sorted(Counter(map(status, answers)).items()))
    refused = [answer for answer in answers if answer.status == 503]
    if refused:
        found["503 with Retry-After"] = sum("retry-after" in answer.headers for answer in refused)
    return found


def observed(report: dict[str, Any]) -> Row:
    """What the observer saw: the GETs of others, and what server and database used."""
    longest = {} if report["longest"] is None else {"others max, ms": 1_000 * report["longest"]}
    return {
        **quantiles(report["seconds"], "others"),
        **longest,  # also if it failed
        "others answered": len(report["seconds"]),  # the quantiles are of these alone
        "others failed": report["failed"],
        "server cores": report["cores"]["server"],
        "server MB": report["server_mb"],
        "connections": report["connections"],
        "idle in transaction": report["idle_in_transaction"],
    }


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the line through points by least squares, without the first fifth: per unit of the first number."""
    x, y = np.array(points[len(points) // 5 :]).T
    return float(np.polyfit(x - x.mean(), y, 1)[0])
