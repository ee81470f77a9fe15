"""What verdicts need of a trial's steps, folded over them: its size does not grow with the steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nestor.ranking import Ranking
from nestor.schemas.steps import Step

SOLVED = ("converged", "truncated")  # outcomes of nestor_engine.solvers.Outcome that are not failures
SMOOTHING = 0.2  # weight of a new batch in the running mean of validation losses


@dataclass(frozen=True)
class Evidence:
    """What verdicts need of all steps so far. Its size does not grow with the steps.

    Attributes:
        steps: how many there were.
        zero: steps whose hypergradient was exactly zero.
        unmoved: hyperparameters whose hypergradient was exactly zero at every step.
        at_bounds: hyperparameters of which every entry was at a bound at the last step.
        failed: steps whose linear solve failed.
        failed_in_a_row: how many of these there were since the last solve that did not fail.
        failure: the outcome of the last one.
        val_examples: in the batch that steered the last step.
        val_loss: running mean over these batches.
        val_loss_at_best: the same at the best step.
        held_out: whether examples that steer nothing were evaluated.
        metric: of the study; None: the loss.
        evaluated: steps with a finite value of the metric, which the next fields are about.
        first_step, first_value, best_step, best_value, last_value: of those steps.
        test_value: of the metric, at the last step at which test examples were evaluated.
        best_test_value: the best of any step.
        test_value_at_best, best_test_value_at_best: both as of the best step.
    """

    steps: int = 0
    zero: int = 0
    unmoved: tuple[str, ...] = ()
    at_bounds: tuple[str, ...] = ()
    failed: int = 0
    failed_in_a_row: int = 0
    failure: str | None = None
    val_examples: int | None = None
    val_loss: float | None = None
    val_loss_at_best: float | None = None
    held_out: bool = False
    metric: str | None = None
    evaluated: int = 0
    first_step: int | None = None
    first_value: float | None = None
    best_step: int | None = None
    best_value: float | None = None
    last_value: float | None = None
    test_value: float | None = None
    best_test_value: float | None = None
    test_value_at_best: float | None = None
    best_test_value_at_best: float | None = None

    @staticmethod
    def of(steps: Iterable[Step], ranking: Ranking) -> Evidence:
        """The evidence of these steps, which are all of a trial's, in order."""
        evidence = Evidence()
        for step in steps:
            evidence = evidence.after(step, ranking)
        return evidence

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Evidence:
        """What `json` wrote."""
        names: dict[str, Any] = {name: tuple(data.get(name, ())) for name in ("unmoved", "at_bounds")}
        return Evidence(**{**data, **names})

    def json(self) -> dict[str, Any]:
        """The fields, as JSON can hold them."""
        return dataclasses.asdict(self)

    def after(self, step: Step, ranking: Ranking) -> Evidence:
        """The evidence with one more step, which comes after those before."""
        unmoved = tuple(name for name, summary in step.hyperparameters.items() if summary.gradient_norm == 0)
        failed = step.outcome is not None and step.outcome not in SOLVED
        evidence = replace(
            self,
            steps=self.steps + 1,
            zero=self.zero + (step.hypergradient_norm == 0),
            unmoved=unmoved if self.steps == 0 else tuple(name for name in self.unmoved if name in unmoved),
            at_bounds=tuple(name for name, summary in step.hyperparameters.items() if summary.at_bounds == 1),
            failed=self.failed + failed,
            failed_in_a_row=self.failed_in_a_row + 1 if failed else 0,
            failure=step.outcome if failed else self.failure,
            val_examples=step.val_examples,
            val_loss=_mean(self.val_loss, step.val_loss),
            held_out=self.held_out or step.held_out_loss is not None,
            metric=ranking.metric,
        )
        return evidence._with_test(step, ranking)._with_value(step, ranking)

    def _with_test(self, step: Step, ranking: Ranking) -> Evidence:
        value = step.test_loss if ranking.metric is None else step.test_metrics.get(ranking.metric)
        if value is None or not math.isfinite(value):
            return self
        best = value if ranking.is_better(value, self.best_test_value) else self.best_test_value
        return replace(self, test_value=value, best_test_value=best)

    def _with_value(self, step: Step, ranking: Ranking) -> Evidence:
        value = step.value_of(ranking.metric)
        if value is None:
            return self
        evidence = replace(self, evaluated=self.evaluated + 1, last_value=value)
        if self.evaluated == 0:
            evidence = replace(evidence, first_step=step.number, first_value=value)
        if not ranking.is_better(value, self.best_value):
            return evidence
        return replace(
            evidence,
            best_step=step.number,
            best_value=value,
            val_loss_at_best=evidence.val_loss,
            test_value_at_best=evidence.test_value,
            best_test_value_at_best=evidence.best_test_value,
        )


def _mean(before: float | None, value: float) -> float | None:
    if not math.isfinite(value):
        return before
    return value if before is None else before + SMOOTHING * (value - before)
