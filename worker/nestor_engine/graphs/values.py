"""Convert arguments of a traced graph's operators to values of the program format, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias, cast

import torch
from torch import fx

from nestor.program_format import CONSTANTS, DEVICE, GraphValue, Ref, TorchConstant

TorchValue: TypeAlias = torch.dtype | torch.layout | torch.memory_format

_BY_NAME: dict[TorchConstant, TorchValue] = {
    TorchConstant(kind, name): getattr(torch, name)
    for kind, names in CONSTANTS.items()
    if kind != DEVICE.kind
    for name in names
}
_NAMES = {value: constant for constant, value in _BY_NAME.items()}


def graph_value(value: object, number: Callable[[fx.Node], int]) -> GraphValue:
    """`value`, an argument of a traced node or a tree of nodes, as a program holds it.

    Args:
        number: the number of a node's value in the program.

    Raises:
        TypeError: a program cannot hold it.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, fx.Node):
        return Ref(number(value))
    if isinstance(value, torch.device):
        return DEVICE
    if isinstance(value, tuple):
        return tuple(graph_value(item, number) for item in cast("tuple[object, ...]", value))
    if isinstance(value, list):
        return [graph_value(item, number) for item in cast("list[object]", value)]
    if isinstance(value, Mapping):
        return {key: graph_value(item, number) for key, item in cast("Mapping[str, object]", value).items()}
    if isinstance(value, torch.dtype | torch.layout | torch.memory_format) and value in _NAMES:
        return _NAMES[value]
    raise TypeError(f"a {type(value).__name__}")


def torch_value(constant: TorchConstant) -> TorchValue:
    """The dtype, layout or memory format that `constant` names. Not for `DEVICE`: it has no fixed value."""
    return _BY_NAME[constant]
