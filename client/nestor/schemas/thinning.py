"""How many of a trial's many steps are kept or returned, as numbers of steps and of intervals between them."""

from __future__ import annotations


def doubling_interval(steps: int, most: int) -> int:
    """The smallest power of two of which at most `most` multiples, without 0, are among so many steps."""
    interval = 1
    while steps // interval > most:
        interval *= 2
    return interval


def fewest_points(columns: int) -> int:
    """Points that one interval takes: the ends, and of each column two extremes and its last value."""
    return 2 + 3 * columns


def intervals(columns: int, max_points: int) -> int:
    """The number of intervals whose points, as in `fewest_points`, are at most `max_points`."""
    return (max_points - 2 - columns) // (2 * columns)
