"""Walk the graph of a loss: find Functions that lose the second derivative, and tensors that nobody trains."""

# pyright: reportPrivateUsage=false
# (torch shows the inputs of a node nowhere else)

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.utils import _pytree as pytree

from nestor_engine.autodiff.gradients import grad_or_none


def once_differentiable(value: Tensor) -> list[str]:
    """The Functions behind `value` whose gradient does not depend on the incoming one, as far as autograd knows.

    Torch then takes their second derivative for zero: it raises an error only if all of a product comes from there.
    """
    return sorted({name for node, name in _functions(value) if not _is_linear(node)})


def _functions(value: Tensor) -> Iterator[tuple[Any, str]]:
    """The nodes of custom Functions in the graph of `value`, with the names of their classes."""
    for node in _nodes(value):
        if isinstance(node, BackwardCFunction):
            cls: Any = getattr(node, "_forward_cls", type(node))
            if not cls.__module__.startswith("torch."):
                yield node, cls.__qualname__


def leaves(value: Tensor) -> Iterator[Tensor]:
    """The tensors that require gradients and that `value` was computed from."""
    for node in _nodes(value):
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            yield variable


def _nodes(value: Tensor) -> Iterator[Any]:
    """The nodes of the graph of `value`, each once."""
    seen, rest = set[Any](), [value.grad_fn]
    while rest:
        node = rest.pop()
        if node is not None and node not in seen:
            seen.add(node)
            rest += [following for following, _ in node.next_functions]
            yield node


def _is_linear(node: Any) -> bool:
    """Whether autograd can follow the backward of `node` to what it is given; it may also return zeros."""
    given = [
        torch.ones(described.shape, dtype=described.dtype, device=described.device).requires_grad_()
        for described in node._input_metadata
        if described.dtype.is_floating_point
    ]
    if len(given) != len(node._input_metadata):
        return True  # indices among the results; whether their gradients are read is not known
    with torch.enable_grad():
        returned: Any = node.apply(*given)
    slopes = [slope for slope in pytree.tree_leaves(returned) if isinstance(slope, Tensor)]
    connected = [slope.sum() for slope in slopes if slope.requires_grad]
    if connected and any(slope is not None for slope in grad_or_none(connected, given)):
        return True
    return not any(slope.any() for slope in slopes)
