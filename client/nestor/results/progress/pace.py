"""The pace of a trial and the values of its sparkline, updated step by step in constant memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nestor.schemas import Curve

MAX_POINTS = 30  # of a sparkline
SPACING = 5.0  # seconds of training between two marks of a pace
MAX_MARKS = 13  # a minute of training
UNKNOWN: dict[str, float | None] = {"steps_per_second": None, "eta_seconds": None}


@dataclass(frozen=True)
class Sparkline:
    """Values of a trial, evenly over its evaluated steps.

    Attributes:
        every: one of so many evaluated steps is kept, beginning with the first: a power of 2.
        n: how many steps were evaluated.
        points: step and value of those that are kept.
        last: of the last one.
    """

    every: int = 1
    n: int = 0
    points: tuple[tuple[int, float], ...] = ()
    last: tuple[int, float] | None = None

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Sparkline:
        """What `json` wrote."""
        points = tuple((step, value) for step, value in data["points"])
        return Sparkline(data["every"], data["n"], points, None if data["last"] is None else tuple(data["last"]))

    def json(self) -> dict[str, Any]:
        """The fields, as JSON can hold them."""
        return dataclasses.asdict(self)

    def after(self, step: int, value: float | None) -> Sparkline:
        """With one more step, which comes after those before; None: it was not evaluated."""
        if value is None:
            return self
        points, every = self.points, self.every
        if self.n % every == 0:
            points = (*points, (step, value))
        if len(points) > MAX_POINTS - 2:  # the best and the last are added
            points, every = points[::2], 2 * every
        return Sparkline(every, self.n + 1, points, (step, value))

    def curve(self, best_step: int | None, best_value: float | None) -> Curve:
        """At most `MAX_POINTS` values, with the first, the best and the last."""
        shown = dict(self.points)
        if self.last is not None:
            shown[self.last[0]] = self.last[1]
        if best_step is not None and best_value is not None:
            shown[best_step] = best_value
        steps = tuple(sorted(shown))
        return Curve(steps=steps, values=tuple(shown[step] for step in steps))


@dataclass(frozen=True)
class Pace:
    """When some steps of an attempt were taken.

    Attributes:
        attempt: marks of an earlier attempt do not count.
        marks: numbers of steps, each with the seconds that the trial had trained then; the last is the newest step.
    """

    attempt: int = 0
    marks: tuple[tuple[int, float], ...] = ()

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Pace:
        """What `json` wrote."""
        return Pace(data["attempt"], tuple((step, seconds) for step, seconds in data["marks"]))

    def json(self) -> dict[str, Any]:
        """The fields, as JSON can hold them."""
        return dataclasses.asdict(self)

    def after(self, attempt: int, step: int, seconds: float) -> Pace:
        """With what was reported of the newest step."""
        marks = [*(self.marks if attempt == self.attempt else ()), (step, seconds)]
        if len(marks) > 2 and marks[-2][1] - marks[-3][1] < SPACING:
            del marks[-2]
        return Pace(attempt, tuple(marks[-MAX_MARKS:]))

    def progress(
        self, attempt: int, *, step: int, last: int, seconds: float, timeout: float | None
    ) -> dict[str, float | None]:
        """`steps_per_second` and `eta_seconds` of a trial that runs; None if this attempt has no two marks.

        Args:
            step, last: the newest step, and the one at which the trial ends.
            seconds: that it has trained.
            timeout: of the trial, if it has one.
        """
        if attempt != self.attempt or len(self.marks) < 2:
            return UNKNOWN
        (first, began), (newest, ended) = self.marks[0], self.marks[-1]
        if newest <= first or ended <= began:
            return UNKNOWN
        rate = (newest - first) / (ended - began)
        eta = max(0, last - step) / rate
        return {
            "steps_per_second": rate,
            "eta_seconds": eta if timeout is None else min(eta, max(0.0, timeout - seconds)),
        }
