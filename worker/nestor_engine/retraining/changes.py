"""Changes of hyperparameters, under which the weights are trained again."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from nestor_engine.objective import Bilevel, Tensors
from nestor_engine.tensors.random import derive_seed


def nudges(bilevel: Bilevel, n: int, *, size: float, seed: int) -> Iterator[Tensors]:
    """`n` random changes of all entries, each normally distributed with the deviation `size`.

    Under small changes of this kind, the correlation of predicted and real changes estimates the cosine between the
    hypergradient and the true one: for a ~ N(0, I), corr(uᵀa, vᵀa) = uᵀv / (‖u‖ ‖v‖).

    Args:
        size: before the transform: 0.1 changes a decay in its logarithm by a tenth.

    Yields:
        Hyperparameter → its change, of its shape, cut at its bounds.
    """
    for number in range(n):
        generator = torch.Generator().manual_seed(derive_seed(seed, "nudge", number))
        changed: Tensors = {}
        for name, value in bilevel.hparams.items():
            change = size * torch.randn(value.shape, generator=generator, dtype=torch.float64)
            changed[name] = within_bounds(bilevel, name, change.to(value))
        yield changed


def within_bounds(bilevel: Bilevel, name: str, change: torch.Tensor) -> torch.Tensor:
    """The part of `change` that the bounds of the hyperparameter allow."""
    if name not in bilevel.bounds:
        return change
    value = bilevel.hparams[name]
    return (value + change).clamp(*bilevel.bounds[name]) - value
