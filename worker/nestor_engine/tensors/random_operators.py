"""Random operators of torch, and how to make each of them draw from a given generator."""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# (torch has no public names for an operator's schema, and does not type its operators)

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from types import CodeType, FunctionType
from typing import Any

import torch
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.utils import _pytree as pytree


@lru_cache(maxsize=4096)
def may_draw(func: Any) -> bool:
    """Whether `func` is a random operator, one of another library, or a Python function that may call one."""
    if isinstance(func, OpOverload | OpOverloadPacket) and not str(func).startswith("aten."):
        return True
    name = str(getattr(func, "__name__", "")).partition(".")[0]
    return name in _random_names() or (isinstance(func, FunctionType) and _reads_random_name(func, set()))


def _reads_random_name(function: FunctionType, seen: set[CodeType]) -> bool:
    """Whether the code of `function`, or of a function of torch that it names, has the name of a random operator."""
    names = _names_in(function.__code__)
    seen.add(function.__code__)
    if names & _random_names():
        return True
    named = [function.__globals__.get(name) for name in names]
    enclosed = [cell.cell_contents for cell in function.__closure__ or ()]
    return any(
        _reads_random_name(inner, seen)
        for inner in named + enclosed
        if isinstance(inner, FunctionType)
        and inner.__code__ not in seen
        and inner.__module__.startswith("torch.")
        and inner.__module__ != "torch.overrides"
    )


def _names_in(code: CodeType) -> set[str]:
    nested = (_names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*nested)


@lru_cache(maxsize=1)
def _random_names() -> frozenset[str]:
    """The names of all operators of torch that draw, such as "bernoulli_" and "lstm"."""
    found: set[str] = set()
    for qualified in torch._C._dispatch_get_all_op_names():
        namespace, _, name = qualified.partition("::")
        packet, _, overload = name.partition(".")
        if namespace == "aten":
            operator = getattr(getattr(torch.ops.aten, packet), overload or "default", None)
            if operator is not None and torch.Tag.nondeterministic_seeded in operator.tags:
                found.add(packet)
    return frozenset(found)


# --- their generators ---------------------------------------------------------------------------------


def dropout(
    generator: torch.Generator, given: torch.Tensor, p: float, train: bool | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`native_dropout`, which takes no generator, with the same bits."""
    aten = torch.ops.aten
    if train is False or not given.numel() or (given.is_cuda and p == 1):
        return aten.native_dropout.default(given, p, train)  # draws nothing
    if given.is_cuda:
        output, mask = aten._fused_dropout.default(given, 1 - p, generator)
        return output, mask.bool()
    mask = torch.empty_like(given, dtype=torch.bool).bernoulli_(1 - p, generator=generator)
    return given.mul(mask).mul_(0.0 if p == 1 else 1 / (1 - p)), mask


def fast_dropout(
    generator_of: Callable[[torch.device], torch.Generator],
    input: torch.Tensor,
    p: float = 0.5,
    train: bool = True,
    inplace: bool = False,
    training: bool = True,
) -> torch.Tensor | None:
    """`torch.dropout` and `F.dropout` on a CPU, out of the same operators; None where it is not as simple."""
    plain = type(input) in (torch.Tensor, torch.nn.Parameter) and not is_functorch_wrapped_tensor(input)
    if not plain or inplace or not input.is_cpu or not isinstance(p, float) or not 0 < p < 1 or not input.numel():
        return None
    if not (train and training):
        return input
    noise = torch.empty_like(input).bernoulli_(1 - p, generator=generator_of(input.device)).div_(1 - p)
    return input * noise


def drawing_from(generator: torch.Generator, drawing: OpOverload, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The arguments with `generator`, unless the author passed one."""
    at = [argument.name for argument in drawing._schema.arguments].index("generator")
    if kwargs.get("generator") is not None or (at < len(args) and args[at] is not None):
        return args, kwargs
    if at < len(args):
        return (*args[:at], generator, *args[at + 1 :]), kwargs
    return args, {**kwargs, "generator": generator}


@cache
def with_generator(operator: OpOverload) -> OpOverload | None:
    """`operator`, or the overload of it that takes a generator in addition."""

    def arguments(of: OpOverload) -> list[tuple[str, str]]:
        return [(argument.name, str(argument.type)) for argument in of._schema.arguments]

    packet = operator.overloadpacket
    for overload in (operator, *(getattr(packet, name) for name in packet.overloads())):
        drawing = arguments(overload)
        rest = [argument for argument in drawing if argument[0] != "generator"]
        if rest != drawing and (overload is operator or rest == arguments(operator)):
            return overload
    return None


def device_of(args: Any, kwargs: Any) -> torch.device:
    """The device of an operator's result."""
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    tensors = (leaf for leaf in pytree.arg_tree_leaves(*args, **kwargs) if isinstance(leaf, torch.Tensor))
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def is_composite(operator: OpOverload) -> bool:
    """Whether `operator.decompose` computes it from other operators."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), "CompositeImplicitAutograd")
