"""Remove redundant operators of autograd from a traced graph, without a change of bits."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx
from torch.utils import _pytree as pytree

from nestor_engine.graphs.operators import is_operator, schema_of

aten = torch.ops.aten


def simplify(graph: fx.Graph, sources: Iterable[fx.Node]) -> None:
    """Simplify, in place, the part of `graph` that depends on `sources`, which runs for every product.

    The second derivatives of nearly every loss have three redundancies. The derivative of p·p multiplies by p twice.
    The zeros at the start of a sum of derivatives are made with the shape of a value that nothing else reads.
    And a matrix is transposed twice. Operators that read or share memory that is written to are not changed.
    """
    run = dependents(graph, sources)
    kept = _unsafe_memories(run)
    seen: dict[tuple[object, str, str], fx.Node] = {}
    for node in list(graph.nodes):
        if node not in run or node.op != "call_function" or _memories(node, *node.all_input_nodes) & kept:
            continue
        same = _shortcut(graph, node) or seen.setdefault((node.target, repr(node.args), repr(node.kwargs)), node)
        if same is not node:
            node.replace_all_uses_with(same)
            graph.erase_node(node)
    graph.eliminate_dead_code()


def dependents(graph: fx.Graph, sources: Iterable[fx.Node]) -> set[fx.Node]:
    """`sources`, and every node that depends on one of them."""
    found = set(sources)
    for node in graph.nodes:
        if node.op != "output" and any(argument in found for argument in node.all_input_nodes):
            found.add(node)
    return found


def _shortcut(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """A cheaper node with the same value, if there is one."""
    if node.target is aten.t.default and isinstance(of := node.args[0], fx.Node) and of.target is aten.t.default:
        return of.args[0] if isinstance(of.args[0], fx.Node) else None
    if node.target is aten.zeros_like.default and "val" in node.meta:
        shown = node.meta["val"]
        with graph.inserting_before(node):
            options = {"dtype": shown.dtype, "device": shown.device}
            return graph.call_function(aten.zeros.default, (list(shown.shape),), options)
    return None


def _unsafe_memories(nodes: Iterable[fx.Node]) -> set[int]:
    """The storages that some node writes into, or fills with random draws."""
    found: set[int] = set()
    for node in nodes:
        if is_operator(node.target):
            schema = schema_of(node.target)
            given = [
                *zip(schema.arguments, node.args, strict=False),
                *((a, node.kwargs.get(a.name)) for a in schema.arguments),
            ]
            found |= _memories(
                *(value for argument, value in given if argument.alias_info and argument.alias_info.is_write)
            )
            if torch.Tag.nondeterministic_seeded in node.target.tags:
                found |= _memories(node)
    return found


def _memories(*nodes: object) -> set[int]:
    """The storages of the nodes' values at the time of tracing."""
    values = pytree.tree_leaves([node.meta.get("val") for node in nodes if isinstance(node, fx.Node)])
    return {value.untyped_storage()._cdata for value in values if isinstance(value, torch.Tensor)}  # pyright: ignore[reportPrivateUsage] the only identity of a storage without data
