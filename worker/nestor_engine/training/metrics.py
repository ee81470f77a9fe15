"""Numbers about named tensors: norms, cosines, summaries of hyperparameters, and means of numbers by name."""

# pyright: reportUnknownMemberType=false
# (torch does not type the entries of Tensor.tolist)

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from nestor.schemas.steps import TensorSummary
from nestor_engine.objective import Bilevel, Tensors
from nestor_engine.tensors.linalg import vector_norm


def summarize(bilevel: Bilevel, before: Tensors, after: Tensors, gradient: Tensors) -> dict[str, TensorSummary]:
    """The summary of each hyperparameter after an outer step, as declared, with one transfer from the device."""
    measured: dict[str, Tensors] = {}
    for name in bilevel.hparams:
        value = after[name]
        low, high = bilevel.bounds.get(name, (-math.inf, math.inf))
        bounded = math.isfinite(low) or math.isfinite(high)
        smallest, largest = torch.aminmax(value)
        measured[name] = {
            "min": smallest,
            "max": largest,
            "mean": value.mean(dtype=torch.float64),
            "std": value.std(correction=0),
            "gradient_norm": _length(gradient[name]),
            "update_norm": _length(value - before[name]),
            "at_bounds": ((value <= low) | (value >= high)).double().mean() if bounded else value.new_zeros(()),
        }
    # One transfer for all: each waits for the device.
    numbers = [number.double() for of_one in measured.values() for number in of_one.values()]
    values = iter(cast("list[float]", torch.stack(numbers).tolist()))
    return {name: TensorSummary(**{field: next(values) for field in of_one}) for name, of_one in measured.items()}


def norm(named: Tensors) -> float:
    """The Euclidean norm of all tensors as one vector."""
    if not named:
        return 0.0
    return math.hypot(*cast("list[float]", torch.stack([_length(value) for value in named.values()]).tolist()))


def _length(value: Tensor) -> Tensor:
    return vector_norm(value, dtype=torch.float64)


def cosine(a: Tensors, b: Tensors) -> float | None:
    """The cosine of the angle between `a` and `b` as vectors; None if one is zero or empty."""
    lengths = norm(a) * norm(b)
    if not lengths > 0:
        return None
    return float(sum((a[name] * b[name]).sum(dtype=torch.float64) for name in a)) / lengths


def mean_of(several: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each number by its name, over those of `several` that have it."""
    values: dict[str, list[float]] = {}
    for one in several:
        for name, value in one.items():
            values.setdefault(name, []).append(value)
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}
