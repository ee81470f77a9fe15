"""Changes of hyperparameters, under which the weights are trained again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from nestor_engine.objective import Bilevel, Tensors
from nestor_engine.tensors.random import derive_seed


def nudge(bilevel: Bilevel, number: int, *, size: float, seed: int) -> Tensors:
    """A random change of all entries, normally distributed with the deviation `size`, and cut at their bounds.

    Args:
        number: which of the changes that `seed` gives.
        size: before the transform: 0.1 changes a decay in its logarithm by a tenth.

    Returns:
        Hyperparameter → its change, of its shape.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "nudge", number))
    changed: Tensors = {}
    for name, value in bilevel.hparams.items():
        change = size * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        changed[name] = within_bounds(bilevel, name, change.to(value))
    return changed


def nudges(bilevel: Bilevel, n: int, *, size: float, seed: int) -> Iterator[Tensors]:
    """The first `n` changes.

    Under small changes of this kind, the correlation of predicted and real changes estimates the cosine between the
    hypergradient and the true one: for a ~ N(0, I), corr(uᵀa, vᵀa) = uᵀv / (‖u‖ ‖v‖).
    """
    return (nudge(bilevel, number, size=size, seed=seed) for number in range(n))


def nudged(bilevel: Bilevel, number: int | None, *, size: float, seed: int) -> Bilevel:
    """The problem with change `number` of its initial hyperparameters; None: as it is."""
    return bilevel if number is None else changed_by(bilevel, nudge(bilevel, number, size=size, seed=seed))


def changed_by(bilevel: Bilevel, change: Tensors) -> Bilevel:
    """The problem with `change` added to its initial hyperparameters; others keep theirs."""
    added = {name: bilevel.hparams[name] + entry for name, entry in change.items()}
    return replace(bilevel, hparams=bilevel.hparams | added)


def within_bounds(bilevel: Bilevel, name: str, change: torch.Tensor) -> torch.Tensor:
    """The part of `change` that the bounds of the hyperparameter allow."""
    if name not in bilevel.bounds:
        return change
    value = bilevel.hparams[name]
    return (value + change).clamp(*bilevel.bounds[name]) - value
