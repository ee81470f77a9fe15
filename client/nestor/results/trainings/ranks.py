"""Rank correlation."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

NORMAL_95 = 1.96  # deviations of a normal distribution around 95 % of it


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """The rank correlation [1] of two samples of equal length; 0 if one of them is constant.

    [1] Spearman (1904), The proof and measurement of association between two things.
    """
    if min(a) == max(a) or min(b) == max(b):
        return 0.0
    return statistics.correlation(_ranks(a), _ranks(b))


def interval(correlation: float, n: int) -> tuple[float, float]:
    """95 % of the distribution of a rank correlation of `n` pairs, by Fisher's transformation [1].

    [1] Fieller, Hartley and Pearson (1957), Tests for rank correlation coefficients.
    """
    if n <= 3:
        return -1.0, 1.0
    center = math.atanh(max(-1 + 1e-9, min(1 - 1e-9, correlation)))
    reach = NORMAL_95 * 1.03 / math.sqrt(n - 3)
    return math.tanh(center - reach), math.tanh(center + reach)


def _ranks(values: Sequence[float]) -> list[float]:
    """From 1; equal values share the mean of their ranks."""
    ordered = sorted(values)
    return [(bisect_left(ordered, value) + bisect_right(ordered, value) + 1) / 2 for value in values]
