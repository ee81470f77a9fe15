"""Modules that only call another one: `DataParallel`, `DistributedDataParallel`, and the result of torch.compile."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from nestor.errors import LazyParameters, ModelNotSupported, ParametersComplex, ParametersWithoutValues


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside of all wrappers around `model`, whose parameters have the names without `module.`.

    Raises:
        ModelNotSupported: the module, or a part of it, is of TorchScript or of FSDP.
    """
    while (inner := wrapped_by(model)) is not None:
        model = inner
    for path, module in modules_of(model):
        if kind := _unsupported(module):
            raise ModelNotSupported(part=f"The model's part {path!r}" if path else "The model", kind=kind)
    return model


def modules_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The paths and modules of `named_modules`, whose signature has no types."""
    return cast("Iterator[tuple[str, nn.Module]]", model.named_modules())


def wrapped_by(module: nn.Module) -> nn.Module | None:
    """The module that `module` only calls; None if it is no wrapper."""
    anything: Any = module  # torch does not type what wrappers hold
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return anything.module
    # Importing it takes seconds, and no module is compiled before somebody did.
    dynamo: Any = sys.modules.get("torch._dynamo.eval_frame")
    if dynamo is not None and isinstance(module, dynamo.OptimizedModule):
        return anything._orig_mod
    return None


def expect_values(model: nn.Module) -> None:
    """Check that the model's tensors have values that can be trained.

    Raises:
        LazyParameters: a lazy module was not called yet.
        ParametersWithoutValues: a tensor is on the meta device.
        ParametersComplex: a trained parameter is complex.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise LazyParameters(name=name)
        if tensor.is_meta:
            raise ParametersWithoutValues(name=name)
        if tensor.is_complex() and tensor.requires_grad:
            raise ParametersComplex(name=name, dtype=str(tensor.dtype))


class PassThrough(nn.Module):
    """What stands for a wrapper inside of a copy: it only calls the module inside, and keeps its parameters' names."""

    def __init__(self, wrapper: nn.Module) -> None:
        super().__init__()
        self.training = wrapper.training
        inner = wrapped_by(wrapper)
        self._attribute = next(name for name, module in wrapper.named_children() if module is inner)

    def hold(self, module: nn.Module) -> None:
        """Call `module` from now on."""
        self.add_module(self._attribute, module)

    def forward(self, *args: Any, **named: Any) -> Any:
        """What the module inside returns."""
        return self.get_submodule(self._attribute)(*args, **named)


def _unsupported(module: nn.Module) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        return "a TorchScript module"
    sharded: Any = sys.modules.get("torch.distributed.fsdp")
    if sharded is not None and isinstance(module, sharded.FullyShardedDataParallel):
        return "FullyShardedDataParallel"
    return None
