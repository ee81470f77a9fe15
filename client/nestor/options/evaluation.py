"""Which examples steer the hyperparameters, and when the tuning ends."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar

from nestor.options.base import MAX_STEPS, Count, Option, Real, Whole, about, option

_MOVED = MappingProxyType({"share": "it is called fraction", "least_steps": "it is called min_steps"})


@option
class Folds(Option):
    """Cross-validation inside one training: training and validation examples are pooled and divided anew.

    Each of `count` equal parts has weights of its own, which are trained on the other parts and never see it; the
    hyperparameters are common to all. An outer step is one part's: its weights take their inner steps, and the
    hypergradient is that of its loss. Then it is the next part's turn. So an outer step costs what it does without
    folds, each part's weights take a `count`-th of the inner steps, and weights, buffers and optimizer state are kept
    `count` times. Weights that went from part to part instead would have learned each part before they are judged by
    it.
    """

    expected: ClassVar[str] = "nestor.Folds(5)"

    count: Annotated[Whole, about("parts", ge=2, le=1000)] = 5
    every: Annotated[Count, about("outer steps until the next part's turn", unit="outer steps")] = 1

    def active_fold(self, step: int) -> int:
        """Whose turn outer step `step` is; from 0. Before the first step it is the first one's."""
        return max(0, step - 1) // self.every % self.count


@option
class EarlyStopping(Option):
    """End the tuning when the loss on held-out validation examples, which steer nothing, no longer improves."""

    expected: ClassVar[str] = "nestor.EarlyStopping(patience=20)"
    former: ClassVar[Mapping[str, str]] = _MOVED

    patience: Annotated[
        Count, about("outer steps without a new lowest loss after which it ends", unit="outer steps")
    ] = 20
    fraction: Annotated[Real, about("of the validation examples that are held out, drawn by the seed", gt=0, lt=1)] = (
        0.2
    )
    min_steps: Annotated[
        Whole, about("outer steps before which it does not end", unit="outer steps", ge=0, le=MAX_STEPS)
    ] = 0

    def is_due(self, step: int, steps_since_best: int) -> bool:
        """Whether to end after outer step `step`, so many steps after the lowest loss."""
        return steps_since_best >= self.patience and step >= self.min_steps
