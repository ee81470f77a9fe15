"""Find the hooks of a model that change gradients, and the custom Functions that a tensor comes from."""

# pyright: reportPrivateUsage=false
# (torch shows registered hooks nowhere else)

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from torch import nn


def unserved(model: nn.Module) -> Iterator[tuple[str, str]]:
    """The parameters with hooks that need `.grad`, each with the sentence about it."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and getattr(parameter, "_post_accumulate_grad_hooks", None):
            yield (
                f"parameter {name!r}",
                "It has a hook (register_post_accumulate_grad_hook), which never runs in a trial, because no gradient "
                "is accumulated in .grad. Remove it, or use register_hook.",
            )


def served(model: nn.Module) -> Iterator[tuple[str, str]]:
    """The parameters with gradient hooks, each with the sentence about it."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and getattr(parameter, "_backward_hooks", None):
            yield (
                f"parameter {name!r}",
                "It has a hook (register_hook). In a trial the hook changes the gradients of the training loss and of "
                "the decay one by one, also in second derivatives, but not the gradient of the validation loss.",
            )


def of_modules(model: nn.Module) -> list[str]:
    """The modules with backward hooks, which a program does not run."""
    found: list[str] = []
    for name, module in cast("Iterator[tuple[str, nn.Module]]", model.named_modules()):
        hooks = cast(Any, module)
        if hooks._backward_hooks or hooks._backward_pre_hooks:
            found.append(f"{name!r} ({type(module).__name__})" if name else type(module).__name__)
    return found
