"""The layout of a vector of parameters: names and shapes, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nestor.errors import ParameterNameTaken
from nestor_engine.objective import PyTree, Tensors
from nestor_engine.tensors.ravel import named_leaves

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layout:
    """The names and shapes of parameters, in the order in which a vector of shape (n,) holds them."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(params: PyTree) -> Layout:
        """The layout of `Ravel(params)`.

        Raises:
            ProblemInvalid: two parameters have the same name.
        """
        named = named_leaves(params)
        if len(named) != len(pytree.tree_leaves(params)):
            raise ParameterNameTaken()
        return Layout(tuple(named), tuple(shapes_of(named).values()))

    @property
    def numel(self) -> int:
        """n, the length of the vector."""
        return sum(torch.Size(shape).numel() for shape in self.shapes)

    def split(self, vector: Tensor) -> Tensors:
        """The parameters in `vector`, shape (n,), by name, as views."""
        parts = vector.split_with_sizes([torch.Size(shape).numel() for shape in self.shapes])
        return {name: part.view(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}

    def vector(self, named: Tensors) -> Tensor:
        """The parameters as one vector of shape (n,), whatever the order of `named`.

        Raises:
            ValueError: names or shapes differ from the layout.
        """
        if reason := difference("parameter", shapes_of(named), dict(zip(self.names, self.shapes, strict=True))):
            raise ValueError(reason)
        return torch.cat([named[name].reshape(-1) for name in self.names])


def shapes_of(named: Tensors) -> dict[str, tuple[int, ...]]:
    """Name → shape, in the order of `named`."""
    return {name: tuple(value.shape) for name, value in named.items()}


def difference(kind: str, held: Shapes, wanted: Shapes, whose: str = "problem") -> str | None:
    """The first tensor of a checkpoint that is missing, has another shape, or is unexpected; None if none is."""
    for name, shape in wanted.items():
        if name not in held:
            return f"it lacks the {kind} {name!r} of the {whose}"
        if held[name] != shape:
            return f"its {kind} {name!r} has the shape {held[name]}, and in the {whose} it has {shape}"
    for name in held:
        if name not in wanted:
            return f"it holds a {kind} {name!r}, which the {whose} does not have"
    return None
