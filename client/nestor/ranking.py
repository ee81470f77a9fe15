"""By which number a study compares steps and trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from nestor.errors import LossMaximized, MetricUnknown, RankingDiffers
from nestor.schemas import Direction, StudyPatch, Trial

T = TypeVar("T")


class Ranked(Protocol):
    """What has the fields of `Ranking`."""

    @property
    def metric(self) -> str | None:
        """As that of `Ranking`."""
        ...

    @property
    def direction(self) -> Direction:
        """As that of `Ranking`."""
        ...


@dataclass(frozen=True)
class Ranking:
    """By which number a study compares steps and trials, and which way.

    Attributes:
        metric: one of the problem's; None: the loss on all held-out examples, else on all validation examples.
    """

    metric: str | None = None
    direction: Direction = "minimize"

    @staticmethod
    def of(ranked: Ranked) -> Ranking:
        """That of a study or of a trial's work directory."""
        return Ranking(ranked.metric, ranked.direction)

    def __str__(self) -> str:
        return f"{self.metric or 'the loss'} ({self.direction})"

    def expect(self, metrics: Iterable[str]) -> None:
        """Check that a problem with these metrics can be ranked.

        Raises:
            MetricUnknown: the metric is not among them.
        """
        names = list(metrics)
        if self.metric is not None and self.metric not in names:
            raise MetricUnknown(metric=self.metric, metrics=names)

    def expect_same(self, study: str, metric: str | None, direction: Direction | None) -> None:
        """Check what a request says about the ranking of a study; None says nothing.

        Raises:
            RankingDiffers: it names another metric or direction.
        """
        given = Ranking(self.metric if metric is None else metric, self.direction if direction is None else direction)
        if given != self:
            raise RankingDiffers(name=study, ranking=str(self), given=str(given))

    def changed(self, patch: StudyPatch, *, study: str, has_trials: bool) -> Ranking:
        """The ranking after a change of a study.

        Raises:
            RankingDiffers: it is another one, and the study has trials, whose best weights were kept by this one.
            LossMaximized: it ranks by the highest loss.
        """
        ranking = replace(self, **patch.ranking())
        if has_trials and ranking != self:
            raise RankingDiffers(name=study, ranking=str(self), given=str(ranking))
        if ranking.metric is None and ranking.direction == "maximize":
            raise LossMaximized(option="direction='maximize'")
        return ranking

    def is_better(self, value: float | None, best: float | None) -> bool:
        """Whether a step's `value` replaces the best so far. Of equal steps the first stays; None never replaces."""
        if value is None or not math.isfinite(value):
            return False
        return best is None or (value < best if self.direction == "minimize" else value > best)

    def best_trial(self, trials: Iterable[Trial]) -> Trial | None:
        """The trial with the best value, of those that tune; None if none has a value."""
        return self.best((trial for trial in trials if trial.spec.response.tunes), lambda trial: trial.best_value)

    def best(self, candidates: Iterable[T], value: Callable[[T], float | None]) -> T | None:
        """The first of the candidates with the best value; None if none has a value."""
        found: T | None = None
        for one in candidates:
            if self.is_better(value(one), None if found is None else value(found)):
                found = one
        return found
