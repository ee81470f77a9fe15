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


def summarize(
    bilevel: Bilevel, before: Tensors, after: Tensors, gradient: Tensors, cosines: dict[str, float | None]
) -> dict[str, TensorSummary]:
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
            "touched": gradient[name].count_nonzero() / max(1, value.numel()),
            "at_bounds": ((value <= low) | (value >= high)).double().mean() if bounded else value.new_zeros(()),
        }
    # One transfer for all: each waits for the device.
    numbers = [number.double() for of_one in measured.values() for number in of_one.values()]
    values = iter(cast("list[float]", torch.stack(numbers).tolist()))
    return {
        name: TensorSummary(gradient_cosine=cosines.get(name), **{field: next(values) for field in of_one})
        for name, of_one in measured.items()
    }


def norm(named: Tensors) -> float:
    """The Euclidean norm of all tensors as one vector."""
    if not named:
        return 0.0
    return math.hypot(*cast("list[float]", torch.stack([_length(value) for value in named.values()]).tolist()))


def _length(value: Tensor) -> Tensor:
    return vector_norm(value, dtype=torch.float64)


def mean_of(several: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each number by its name, over those of `several` that have it."""
    values: dict[str, list[float]] = {}
    for one in several:
        for name, value in one.items():
            values.setdefault(name, []).append(value)
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}


def cosines(a: Tensors, b: Tensors) -> tuple[float | None, dict[str, float | None]]:
    """The cosine of the angle between `a` and `b`, as one vector and by name, over the entries that both touched.

    A batch touches only the weights of its own examples. An entry that is zero in `a` or in `b` says nothing about
    agreement, so it does not count.

    Returns:
        None stands for a cosine without entries. `b` may be empty.
    """
    if not a or not b:
        return None, dict.fromkeys(a)
    measured = [
        torch.stack(
            [
                (value * b[name]).sum(dtype=torch.float64),
                _length(value * (b[name] != 0)).square(),
                _length(b[name] * (value != 0)).square(),
            ]
        )
        for name, value in a.items()
    ]
    sums = cast("list[list[float]]", torch.stack(measured).tolist())
    total = (sum(column) for column in zip(*sums, strict=True))
    return _cosine(*total), {name: _cosine(*of_one) for name, of_one in zip(a, sums, strict=True)}


def _cosine(product: float, square: float, other_square: float) -> float | None:
    lengths = math.sqrt(square) * math.sqrt(other_square)
    return min(1.0, max(-1.0, product / lengths)) if lengths > 0 else None
