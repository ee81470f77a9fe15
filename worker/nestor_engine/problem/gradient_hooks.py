"""Hooks that a model's author registered on parameters, applied to the weights of each call."""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# (torch shows registered hooks nowhere else)

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn

from nestor_engine.objective import Tensors

GradientHooks = dict[str, tuple[Callable[[Tensor], "Tensor | None"], ...]]  # by the parameter's name


def gradient_hooks(model: nn.Module) -> GradientHooks:
    """The hooks of the trained parameters, in the order of their registration."""
    found: GradientHooks = {}
    for name, parameter in model.named_parameters():
        hooks = cast(Any, parameter)._backward_hooks
        if parameter.requires_grad and hooks:
            found[name] = tuple(hooks.values())
    return found


def with_hooks(params: Tensors, hooks: GradientHooks) -> Tensors:
    """The same weights, whose gradients pass through the hooks, also when they are differentiated again."""
    if not hooks:
        return params
    hooked = dict(params)
    for name, functions in hooks.items():
        if params[name].requires_grad:
            hooked[name] = params[name].view_as(params[name])
            for function in functions:
                hooked[name].register_hook(function)
    return hooked
