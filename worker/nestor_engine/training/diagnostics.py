"""Warnings about a step's numbers, each with a remedy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from nestor.schemas.steps import TensorSummary
from nestor_engine.responses import Hypergradient
from nestor_engine.solvers import Outcome

SETTLED = 10  # outer steps after which the inner gradient should have decreased
GROWN = 3.0  # times its start: more than the difference between batches
BATCHES = 8  # that are measured before the inner gradient is said to be large


def advice(
    number: int,
    hyper: Hypergradient,
    inner_gradient_ratio: float | None,
    mean_ratio: Callable[[], float],
    summaries: dict[str, TensorSummary],
) -> Iterator[tuple[str, str]]:
    """(topic, sentence) of each warning; the caller reports a topic once per trajectory.

    Args:
        inner_gradient_ratio: as in `Step`, of one batch.
        mean_ratio: the same without the noise of batches, computed rarely, and only if the first is large. At a minimum
            the gradient of a mini-batch is noise, whose norm may well exceed that at the start. The start keeps its
            noise: it bounds the ratio of a trial that starts at a minimum, where the mean gradient is near zero.
    """
    if hyper.solution and hyper.solution.outcome not in (Outcome.converged, Outcome.truncated):
        yield hyper.solution.outcome.name, hyper.solution.outcome.value
    if inner_gradient_ratio is not None and inner_gradient_ratio > GROWN and _is_checked(number):
        ratio = mean_ratio()
        if ratio > GROWN:
            yield (
                "inner_gradient",
                f"The norm of the training loss's gradient, without the noise of batches, is {ratio:.1f} times that of "
                "the first batch, so the weights are not near a minimum, as the implicit function theorem assumes. "
                "Use more inner steps, a warm-up, or a smaller inner learning rate.",
            )
    for name, summary in summaries.items():
        if summary.at_bounds == 1.0:
            yield (
                f"bounds:{name}",
                f"Every entry of the hyperparameter {name!r} lies at a bound, so it is no longer tuned. "
                "Widen its bounds, or lower the outer learning rate.",
            )


def _is_checked(number: int) -> bool:
    """At 10, 20, 40, 80, … outer steps, so that the measurements of a long trial cost nothing."""
    times, rest = divmod(number, SETTLED)
    return rest == 0 and times.bit_count() == 1


def nonfinite_metrics(metrics: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, str]]:
    """The same for metrics that are NaN or infinite; `metrics` has those of each split."""
    for split, values in metrics.items():
        for name, value in values.items():
            if not math.isfinite(value):
                yield (
                    f"metric:{split}:{name}",
                    f"The metric {name!r} is {value} on {split} data. Look for a division by zero, such as examples "
                    "of which none is of a class.",
                )
