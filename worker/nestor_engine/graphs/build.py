"""From a checked graph to a module that runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, fx

from nestor.program_format import DEVICE, GraphValue, Ref, Region, TorchConstant, leaves
from nestor_engine.graphs.check import CheckedGraph
from nestor_engine.graphs.values import torch_value
from nestor_engine.graphs.with_backward import WithBackward


def build(checked: CheckedGraph, device: torch.device | None = None) -> fx.GraphModule:
    """A module that takes the leaves of the inputs, the constants and the device, and returns the outputs' leaves.

    Its generated source contains only names that are made here and allowed operators, nothing from the file.

    Args:
        device: if given, the module runs there, takes no device, and returns the outputs in their lists and tuples.
    """
    graph, made = checked.graph, fx.Graph()
    regions: dict[str, fx.GraphModule] = {}
    given = len(checked.kinds) - len(graph.nodes)
    values = [made.placeholder(f"v{number}") for number in range(given)]
    here = made.placeholder("device") if device is None else device

    def fill(value: GraphValue) -> Any:
        if isinstance(value, Ref):
            return values[value.index]
        if isinstance(value, TorchConstant):
            return here if value == DEVICE else torch_value(value)
        if isinstance(value, list | tuple):
            return type(value)(fill(item) for item in value)
        assert not isinstance(value, dict)  # no operator takes one, and its keys are names from the file
        return value

    for position, (node, target) in enumerate(zip(graph.nodes, checked.targets, strict=True)):
        function: Callable[..., Any]
        if isinstance(node, Region):
            assert isinstance(target, CheckedGraph)
            name = f"region{len(regions)}"
            regions[name] = build(target)
            modules = [made.get_attr(name)]
            if (backward := checked.backwards.get(position)) is not None:
                regions[f"{name}_backward"] = build(backward)
                modules.append(made.get_attr(f"{name}_backward"))
            function, kwargs = _REGIONS[node.kind], dict[str, Any]()
            args = (*fill(node.options), *modules, here, *fill(node.args))
        else:
            assert not isinstance(target, CheckedGraph)
            function, args = target, fill(node.args)
            kwargs = {name: fill(value) for name, value in node.kwargs.items()}
        values.append(made.create_node("call_function", function, args, kwargs, name=f"v{len(values)}"))
    made.output(tuple(fill(leaf) for leaf in leaves(graph.outputs)) if device is None else fill(graph.outputs))
    return fx.GraphModule(regions, made, class_name="Program")


def grad_region(enabled: bool, graph: fx.GraphModule, device: torch.device, *args: Any) -> tuple[Tensor, ...]:
    """Run `graph` with or without autograd."""
    with torch.set_grad_enabled(enabled):
        return graph(*args, device)


def autocast_region(
    dtype: torch.dtype, enabled: bool, cache: bool, graph: fx.GraphModule, device: torch.device, *args: Any
) -> tuple[Tensor, ...]:
    """Run `graph` with or without autocast to `dtype`."""
    with torch.autocast(device.type, dtype=dtype, enabled=enabled, cache_enabled=cache):
        return graph(*args, device)


def function_region(
    results: int,
    without: tuple[int, ...],
    forward: fx.GraphModule,
    backward: fx.GraphModule,
    device: torch.device,
    *args: Any,
) -> tuple[Tensor, ...]:
    """Run `forward` so that `backward` is its derivative; see `Region` for their signatures."""

    def with_device(graph: fx.GraphModule) -> Callable[..., tuple[Tensor | None, ...]]:
        return lambda *given: graph(*given, device)

    apply = cast("Callable[..., tuple[Tensor, ...]]", cast(Any, WithBackward).apply)
    return apply(results, without, with_device(forward), with_device(backward), *args)


_REGIONS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "grad": grad_region,
    "autocast": autocast_region,
    "function": function_region,
}
