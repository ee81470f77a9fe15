"""What a hypergradient predicts for changed hyperparameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nestor.schemas.steps import MAX_PREDICTIONS
from nestor_engine.objective import Bilevel, Tensors
from nestor_engine.retraining.changes import nudges
from nestor_engine.training.step import Step


def predicted(hypergradient: Tensors, changes: Iterable[Tensors]) -> list[float]:
    """The change of the validation loss, to first order, under each of `changes`."""
    return [
        sum(float((hypergradient[name].double() * entry.double()).sum()) for name, entry in change.items())
        for change in changes
    ]


def with_predictions(steps: Iterable[Step], bilevel: Bilevel, last: int, *, size: float, seed: int) -> Iterator[Step]:
    """`steps`, of which number `last` has what its hypergradient predicts for each of the first nudges.

    Args:
        bilevel: the problem, whose hyperparameters the steps do not move.
        size, seed: as for `nudges`.
    """
    for step in steps:
        if step.number == last:
            changes = nudges(bilevel, MAX_PREDICTIONS, size=size, seed=seed)
            found = predicted(step.state.previous, changes)
            step = step.model_copy(update={"predicted": {str(number): value for number, value in enumerate(found)}})
        yield step
