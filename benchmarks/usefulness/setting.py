"""One task with one seed, and plain training on it under fixed hyperparameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import nestor
import nestor_engine as engine
from benchmarks.usefulness.task import Splits, Task

Values = Mapping[str, float]  # of knobs by name; others have their defaults


@dataclass(frozen=True)
class Effort:
    """How long everyone trains.

    Attributes:
        n_steps: outer steps of a tuned run. A training of a rival has as many inner steps as such a run has.
        trainings: of a search, without the last one, which refits.
    """

    n_steps: int = 200
    trainings: int = 8


QUICK = Effort(n_steps=5, trainings=2)


@dataclass(frozen=True)
class Judged:
    """A training: its score and loss on validation data, and its score on test data, which chooses nothing."""

    val_score: float
    val_loss: float
    score: float

    @property
    def rank(self) -> tuple[float, float]:
        """Larger for what a rival prefers: the score decides, and the loss among equal scores."""
        return self.val_score, -self.val_loss


@dataclass(frozen=True)
class Setting:
    """What a contender gets.

    Attributes:
        options: in place of defaults, only to find out what a default is worth; never for one task.
    """

    task: Task
    seed: int
    effort: Effort
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @cached_property
    def splits(self) -> Splits:
        return self.task.splits(self.seed)

    @property
    def config(self) -> nestor.Config:
        """The defaults, but for `options`."""
        return nestor.Config(n_steps=self.effort.n_steps, seed=self.seed, **self.options)

    def fitted(self, problem: nestor.Problem) -> engine.Fitted:
        """Training from the first initialization under the problem's initial hyperparameters."""
        config = self.config
        return engine.fit(
            problem.bilevel(),
            problem.data.train,
            n_steps=config.warmup_steps + config.n_steps * config.inner_steps,
            inner=config.inner,
            batch_size=config.batch_size,
            seed=config.seed,
        )

    def judged(self, values: Values, splits: Splits) -> Judged:
        """What training with these knobs reaches."""
        problem = self.task.fixed(splits, self.seed, values)
        bilevel, fitted = problem.bilevel(), self.fitted(problem)
        on = lambda split: engine.evaluate(
            bilevel, fitted.params, fitted.buffers, bilevel.hparams, problem.data.splits[split]
        )
        val, test = on("val"), on("test")
        return Judged(val["score"], val["loss"], test["score"])

    def best(self, proposals: Iterable[Values], splits: Splits) -> Values:
        """The proposal that is best on validation data."""
        return max(proposals, key=lambda values: self.judged(values, splits).rank)

    def refitted(self, values: Values, splits: Splits) -> float:
        """The score after training on training and validation data with these knobs."""
        return self.judged(values, splits.training_on(splits.both)).score
