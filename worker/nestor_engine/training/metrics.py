"""Named tensors in numbers: lengths, angles, and what becomes of each from one step to the next."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from nestor_engine.objective import Bilevel, Tensors


@dataclass(frozen=True)
class Summary:
    """One hyperparameter at one step, its entries as optimised.

    Attributes:
        std: with the number of entries as divisor.
        gradient_norm, update_norm: Euclidean lengths of its hypergradient, and of what the outer step added to it.
        at_bounds: share of the entries that lie at a bound.
    """

    min: float
    max: float
    mean: float
    std: float
    gradient_norm: float
    update_norm: float
    at_bounds: float = 0.0


def summarise(bilevel: Bilevel, before: Tensors, after: Tensors, gradient: Tensors) -> dict[str, Summary]:
    """Each hyperparameter after an outer step."""
    told = {}
    for name, value in after.items():
        least, largest = torch.aminmax(value)
        low, high = bilevel.bounds.get(name, (-math.inf, math.inf))
        bounded = math.isfinite(low) or math.isfinite(high)
        told[name] = Summary(
            min=float(least),
            max=float(largest),
            mean=float(value.mean(dtype=torch.float64)),
            std=float(value.std(correction=0)),
            gradient_norm=norm({name: gradient[name]}),
            update_norm=norm({name: value - before[name]}),
            at_bounds=float(((value <= low) | (value >= high)).double().mean()) if bounded else 0.0,
        )
    return told


def norm(named: Tensors) -> float:
    """The length of all of them as one vector."""
    return math.hypot(*(float(torch.linalg.vector_norm(value, dtype=torch.float64)) for value in named.values()))


def cosine(a: Tensors, b: Tensors) -> float | None:
    """Of the angle between them as vectors; None where one is zero, or there is none."""
    lengths = norm(a) * norm(b)
    if not lengths > 0:
        return None
    return float(sum((a[name] * b[name]).sum(dtype=torch.float64) for name in a)) / lengths
