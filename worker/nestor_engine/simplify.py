"""A traced graph without what autograd does twice or for nothing; the bits stay."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx

aten = torch.ops.aten


def simplify(graph: fx.Graph, sources: Iterable[fx.Node]) -> None:
    """Shorten, in place, the part of `graph` that depends on `sources`, which is run again and again.

    Three things are found in the second derivatives of nearly every loss. The derivative of p·p multiplies by p twice.
    The zeros that a sum of derivatives begins with are made in the shape of a value that is read for nothing else.
    And a matrix is transposed to be transposed again.
    """
    run = dependents(graph, sources)
    if any(_mutates(node) for node in run):
        return  # then a node is more than its inputs
    seen: dict[tuple[object, str, str], fx.Node] = {}
    for node in list(graph.nodes):
        if node not in run or node.op != "call_function":
            continue
        same = _shortcut(graph, node) or seen.setdefault((node.target, repr(node.args), repr(node.kwargs)), node)
        if same is not node:
            node.replace_all_uses_with(same)
            graph.erase_node(node)
    graph.eliminate_dead_code()


def dependents(graph: fx.Graph, sources: Iterable[fx.Node]) -> set[fx.Node]:
    """`sources`, and every node that needs one of them."""
    found = set(sources)
    for node in graph.nodes:
        if node.op != "output" and any(argument in found for argument in node.all_input_nodes):
            found.add(node)
    return found


def _shortcut(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """A node of the same value that is had for less."""
    if node.target is aten.t.default and isinstance(of := node.args[0], fx.Node) and of.target is aten.t.default:
        return of.args[0] if isinstance(of.args[0], fx.Node) else None
    if node.target is aten.zeros_like.default and "val" in node.meta:
        shown = node.meta["val"]
        with graph.inserting_before(node):
            options = {"dtype": shown.dtype, "device": shown.device}
            return graph.call_function(aten.zeros.default, (list(shown.shape),), options)
    return None


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and (
        node.target._schema.is_mutable or torch.Tag.nondeterministic_seeded in node.target.tags
    )
