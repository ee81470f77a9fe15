"""Whether one contender beats another: paired differences over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from scipy.stats import t

CONFIDENCE = 0.95

Scores = Mapping[int, float]  # by seed


class Verdict(StrEnum):
    win = "win"
    tie = "tie"
    loss = "loss"


@dataclass(frozen=True)
class Interval:
    """A mean and how far its confidence interval reaches to either side."""

    mean: float
    half: float

    @property
    def verdict(self) -> Verdict:
        """Whether zero lies below, in or above the interval."""
        if abs(self.mean) <= self.half:
            return Verdict.tie
        return Verdict.win if self.mean > 0 else Verdict.loss


def paired(ours: Scores, other: Scores) -> Interval:
    """Of the difference over the seeds that both have, by Student's t; one seed says nothing about its reach."""
    differences = [ours[seed] - other[seed] for seed in sorted(ours.keys() & other.keys())]
    mean, n = statistics.mean(differences), len(differences)
    if n < 2:
        return Interval(mean, math.inf)
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, n - 1))
    return Interval(mean, quantile * statistics.stdev(differences) / math.sqrt(n))
