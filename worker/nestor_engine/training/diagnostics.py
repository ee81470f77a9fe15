"""What a step's numbers say to the person who waits: sentences with a remedy."""

from __future__ import annotations

from collections.abc import Iterator

from nestor_engine.responses import Hypergradient
from nestor_engine.solvers import Outcome
from nestor_engine.training.metrics import Summary

SETTLED = 10  # outer steps after which an inner gradient may be expected to have come down
GROWN = 3.0  # times its start: beyond what fresh batches explain


def advice(
    number: int, hyper: Hypergradient, inner_gradient_ratio: float | None, summaries: dict[str, Summary]
) -> Iterator[tuple[str, str]]:
    """(topic, sentence): of one topic, the first sentence of a trajectory is enough."""
    if hyper.solution and hyper.solution.outcome not in (Outcome.converged, Outcome.truncated):
        yield hyper.solution.outcome.name, hyper.solution.outcome.value
    if number >= SETTLED and inner_gradient_ratio is not None and inner_gradient_ratio > GROWN:
        yield (
            "inner_gradient",
            f"The training loss's gradient is {inner_gradient_ratio:.1f} times as long as at the start, so the weights "
            "are far from a minimum, which the implicit function theorem assumes. Take more inner steps, a warm-up, "
            "or a smaller inner learning rate.",
        )
    for name, summary in summaries.items():
        if summary.at_bounds == 1.0:
            yield (
                f"bounds:{name}",
                f"Every entry of the hyperparameter {name!r} lies at a bound, so it is no longer tuned. "
                "Widen its bounds, or lower the outer learning rate.",
            )
