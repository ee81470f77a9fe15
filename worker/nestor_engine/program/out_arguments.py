"""Calls with an `out=` argument as a call without it and a copy, which programs can hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from nestor_engine.graphs.operators import OpOverload, is_operator, schema_of


def without_out_arguments(module: fx.GraphModule) -> None:
    """Rewrite the graphs of `module` and of its regions, in place.

    A call whose result has another shape than the given tensor resizes it, and stays as it is.
    """
    for inner in module.modules():
        if isinstance(inner, fx.GraphModule):
            for node in list(inner.graph.nodes):
                _rewrite(inner.graph, node)


def _rewrite(graph: fx.Graph, node: fx.Node) -> None:
    if not is_operator(node.target):
        return
    given = [argument.name for argument in schema_of(node.target).arguments if argument.is_out]
    plain = _without_out(node.target)
    out: Any = node.kwargs.get(given[0]) if len(given) == 1 else None
    if plain is None or not isinstance(out, fx.Node):
        return
    with graph.inserting_before(node):
        kwargs = {name: value for name, value in node.kwargs.items() if name != given[0]}
        value = graph.call_function(plain, node.args, kwargs)
        copied = graph.call_function(torch.ops.aten.copy_.default, (out, value))
    if tuple(node.meta["val"].shape) != tuple(out.meta["val"].shape):
        graph.erase_node(copied)
        graph.erase_node(value)
        return
    for made in (value, copied):
        made.meta = dict(node.meta)
    node.replace_all_uses_with(copied)
    graph.erase_node(node)


def _without_out(target: OpOverload[..., Any]) -> OpOverload[..., Any] | None:
    """The overload of the same operator that takes the other arguments."""

    def others(overload: OpOverload[..., Any]) -> list[tuple[str, str]]:
        arguments = schema_of(overload).arguments
        return [(argument.name, str(argument.type)) for argument in arguments if not argument.is_out]

    packet = target.overloadpacket
    overloads: list[OpOverload[..., Any]] = [getattr(packet, name) for name in packet.overloads()]
    return next(
        (
            one
            for one in overloads
            if others(one) == others(target) and not any(argument.is_out for argument in schema_of(one).arguments)
        ),
        None,
    )
