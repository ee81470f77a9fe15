"""An operation whose derivative is a graph of its own, as of a user's `torch.autograd.Function`."""

# pyright: reportIncompatibleMethodOverride=false
# (torch's own signatures take any arguments)

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Backward = Callable[..., Sequence[Tensor | None]]


class WithBackward(torch.autograd.Function):
    """apply(results, without, forward, backward, *args) → the first `results` values that `forward(*args)` returns.

    `backward(*args, *results, *saved, *grads)` returns the gradient of each argument, or None. The saved values are
    what `forward` returns beyond the results. As in torch, they are constants to a second derivative, while arguments
    and results are not. So a second derivative is the derivative of `backward`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        results: int,
        without: Sequence[int],
        forward: Callable[..., Sequence[Tensor]],
        backward: Backward,
        *args: Any,
    ) -> tuple[Tensor, ...]:
        """The results; `without` has the positions of those that have no gradient."""
        values = tuple(forward(*args))
        returned, saved = values[:results], values[results:]
        ctx.numbers = [None if isinstance(arg, Tensor) else arg for arg in args]
        ctx.backward_graph = backward
        ctx.save_for_backward(*(arg for arg in args if isinstance(arg, Tensor)), *returned, *saved)
        ctx.mark_non_differentiable(*(returned[position] for position in without))
        return returned

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the arguments."""
        tensors = iter(ctx.saved_tensors)
        args = [next(tensors) if number is None else number for number in ctx.numbers]
        slopes = ctx.backward_graph(*args, *tensors, *grads)
        return (None, None, None, None, *slopes)
