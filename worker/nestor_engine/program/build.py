"""From a checked graph to a Python function of trees that runs it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from nestor_engine.errors import ProblemInvalid
from nestor_engine.graph_json import DEVICE, Ref, Value, leaves
from nestor_engine.objective import Tensors
from nestor_engine.program.graph import Graph, Region


class Function:
    """A graph as a Python function of trees. It carries its constants, so it lives on one device."""

    def __init__(self, graph: Graph, constants: Tensors, device: torch.device | str = "cpu") -> None:
        self._graph = graph
        self._constants = {name: constants[name].to(device) for name in graph.constants}
        self._device = torch.device(device)
        self._module = build(graph)

    def __call__(self, *args: Any) -> Any:
        given: list[Any] = []
        for tree, arg in zip(self._graph.inputs, args, strict=True):
            _collect(tree, arg, given)
        results = iter(self._module(*given, *self._constants.values(), self._device))
        return _restore(self._graph.outputs, results)

    def to(self, device: torch.device | str) -> Function:
        return Function(self._graph, self._constants, device)


def _collect(tree: Value, arg: Any, given: list[Any]) -> None:
    """Append the leaves of `arg` that `tree` has numbers for."""
    if isinstance(tree, Ref):
        given.append(arg)
    elif isinstance(tree, dict):
        for key, inner in tree.items():
            if key not in arg:
                raise ProblemInvalid(
                    reason=f"The program reads {key!r}, but was given {sorted(arg)}. Name the data's columns alike."
                )
            _collect(inner, arg[key], given)
    elif isinstance(tree, list | tuple):
        for inner, item in zip(tree, arg, strict=True):
            _collect(inner, item, given)


def _restore(tree: Value, results: Iterator[Any]) -> Any:
    if isinstance(tree, dict):
        return {key: _restore(inner, results) for key, inner in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_restore(inner, results) for inner in tree)
    return next(results)


def build(graph: Graph) -> fx.GraphModule:
    """A module that takes the leaves of the inputs, the constants and the device, and returns the outputs' leaves.

    Its generated source holds names that are made here and operators of the list, nothing from the file.
    """
    made = fx.Graph()
    regions: dict[str, Any] = {}
    given = len(graph.kinds) - len(graph.nodes)
    values = [made.placeholder(f"v{number}") for number in range(given)]
    device = made.placeholder("device")

    def fill(value: Value) -> Any:
        if isinstance(value, Ref):
            return values[value.index]
        if value is DEVICE:
            return device
        if isinstance(value, list | tuple):
            return type(value)(fill(item) for item in value)
        return value

    for node in graph.nodes:
        if isinstance(node, Region):
            name = f"region{len(regions)}"
            regions[name] = build(node.graph)
            args = (*node.options, made.get_attr(name), device, *fill(node.args))
            made_node = made.create_node("call_function", _REGIONS[node.kind], args, name=f"v{len(values)}")
        else:
            kwargs = {name: fill(value) for name, value in node.kwargs.items()}
            made_node = made.create_node("call_function", node.target, fill(node.args), kwargs, name=f"v{len(values)}")
        values.append(made_node)
    made.output(tuple(fill(leaf) for leaf in leaves(graph.outputs)))
    return fx.GraphModule(regions, made, class_name="Program")


def grad_region(enabled: bool, graph: fx.GraphModule, device: torch.device, *args: Any) -> Any:
    with torch.set_grad_enabled(enabled):
        return graph(*args, device)


def autocast_region(
    dtype: torch.dtype, enabled: bool, cache: bool, graph: fx.GraphModule, device: torch.device, *args: Any
) -> Any:
    with torch.autocast(device.type, dtype=dtype, enabled=enabled, cache_enabled=cache):
        return graph(*args, device)


_REGIONS = {"grad": grad_region, "autocast": autocast_region}
