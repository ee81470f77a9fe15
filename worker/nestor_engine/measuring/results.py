"""What losses and metrics return: a mean, or the pair of a sum and a weight, which chunks of examples add up to."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor

from nestor.errors import MetricNotExportable, MetricNotNumber, SumAndWeightInvalid

Pair = tuple[Tensor, Tensor]  # (sum, weight), both of shape ()
Measured = Tensor | Pair


def is_pair(value: object) -> TypeGuard[tuple[Any, Any]]:
    """Whether a function returned (sum, weight)."""
    return type(value) is tuple and len(cast("tuple[Any, ...]", value)) == 2


def single(value: Measured) -> Tensor:
    """The value on the examples at hand, shape (): sum / weight of a pair."""
    return value[0] / value[1] if isinstance(value, tuple) else value


def loss_of(function: str, value: object) -> Measured:
    """What a loss returned: the mean over the examples, or (sum, weight).

    Raises:
        SumAndWeightInvalid: the pair does not hold two scalars.
    """
    return _pair(function, value) if is_pair(value) else cast(Tensor, value).mean()


def metric_of(name: str, value: object) -> Measured:
    """What a metric returned: a number, also of Python or NumPy, as a tensor, or the pair (sum, weight), detached.

    Raises:
        MetricNotNumber: it is something else.
        MetricNotExportable: it is no tensor, while the metric is traced.
        SumAndWeightInvalid: the pair does not hold two scalars.
    """
    if is_pair(value):
        total, weight = _pair(f"The metric {name!r}", value)
        return total.detach(), weight.detach()
    if isinstance(value, Tensor):
        value = value.detach()
        return (value if value.is_floating_point() else value.float()).mean()
    if torch.compiler.is_exporting():
        raise MetricNotExportable(metric=name, type=type(value).__name__)
    number = _number(value)
    if number is None:
        raise MetricNotNumber(metric=name, type=type(value).__name__)
    return torch.tensor(number, dtype=torch.float64)


def _pair(function: str, pair: tuple[Any, Any]) -> Pair:
    total, weight = pair
    shapes = [tuple(part.shape) if isinstance(part, Tensor) else () for part in pair]
    if shapes != [(), ()] or (not isinstance(total, Tensor) and _number(total) is None):
        raise SumAndWeightInvalid(function=function, shapes=" and ".join(map(str, shapes)))
    total = total if isinstance(total, Tensor) else torch.tensor(float(total), dtype=torch.float64)
    if isinstance(weight, Tensor):
        return total, weight
    if not isinstance(weight, torch.SymInt) and _number(weight) is None:
        raise SumAndWeightInvalid(function=function, shapes=f"() and a {type(weight).__name__}")
    # A size, which may be a symbol while the function is traced.
    return total, total.detach().new_ones(()) * cast(Any, weight)


def _number(value: object) -> float | None:
    """A number of Python or NumPy; None for anything else, such as a list, a text or None."""
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, Mapping | str | bytes | list | tuple) or getattr(value, "shape", None) != ():
        return None
    try:
        return float(cast(Any, value))
    except (TypeError, ValueError):
        return None
