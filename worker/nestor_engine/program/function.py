"""A function of a program: a graph with the constants that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from nestor.errors import ProgramInputMissing
from nestor.program_format import GraphValue, Ref
from nestor_engine.graphs.build import build
from nestor_engine.graphs.check import CheckedGraph
from nestor_engine.objective import Tensors


class Function:
    """A graph as a Python function of trees. It carries its constants, so it lives on one device."""

    def __init__(self, checked: CheckedGraph, constants: Tensors, device: torch.device | str = "cpu") -> None:
        self._checked = checked
        self._constants = {name: constants[name].to(device) for name in checked.graph.constants}
        self._device = torch.device(device)
        self._module = build(checked)

    def __call__(self, *args: Any) -> Any:
        graph = self._checked.graph
        given: list[Any] = []
        for tree, arg in zip(graph.inputs, args, strict=True):
            _collect(tree, arg, given)
        # Constants are named by their contents, so a graph that reads two equal ones lists one name twice.
        constants = (self._constants[name] for name in graph.constants)
        results = iter(self._module(*given, *constants, self._device))
        return _restore(graph.outputs, results)

    def to(self, device: torch.device | str) -> Function:
        """The same function with its constants on `device`."""
        return Function(self._checked, self._constants, device)


def _collect(tree: GraphValue, arg: Any, given: list[Any]) -> None:
    """Append the leaves of `arg` that have a number in `tree`."""
    if isinstance(tree, Ref):
        given.append(arg)
    elif isinstance(tree, dict):
        for key, inner in tree.items():
            if key not in arg:
                raise ProgramInputMissing(name=key, given=sorted(arg))
            _collect(inner, arg[key], given)
    elif isinstance(tree, list | tuple):
        for inner, item in zip(tree, arg, strict=True):
            _collect(inner, item, given)


def _restore(tree: GraphValue, results: Iterator[Any]) -> Any:
    """The tree of a graph's outputs, from its leaves in order."""
    if isinstance(tree, dict):
        return {key: _restore(inner, results) for key, inner in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_restore(inner, results) for inner in tree)
    return next(results)
