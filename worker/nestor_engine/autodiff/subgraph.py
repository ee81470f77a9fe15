"""A part of a traced graph: runs without autograd, and can be saved as JSON for later trials of the same program."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from nestor.errors import ProgramRejected
from nestor.program_format import (
    MAX_TRACE_NODES,
    MAX_TRACE_VALUES,
    Budget,
    Call,
    Graph,
    GraphValue,
    Json,
    Ref,
    graph_json,
    parse_graph,
)
from nestor_engine.graphs.build import build
from nestor_engine.graphs.check import check_graph
from nestor_engine.graphs.operators import GETITEM, of_trace
from nestor_engine.graphs.values import graph_value


class Part:
    """A graph of torch's operators as a function of tensors; its outputs are lists, possibly nested."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module

    @torch.no_grad()
    def __call__(self, *given: Tensor) -> Any:
        return self.module(*given)

    def written(self) -> Json:
        """The graph as JSON; `read` is the inverse.

        Raises:
            TypeError: the graph contains something that JSON cannot represent, such as a constant tensor.
        """
        numbers: dict[fx.Node, int] = {}
        inputs: list[Ref] = []
        calls: list[Call] = []
        outputs: GraphValue = None

        def value(argument: object) -> GraphValue:
            return graph_value(argument, numbers.__getitem__)

        for node in self.module.graph.nodes:
            if node.op == "output":
                outputs = value(node.args[0])
                continue
            if node.op == "placeholder":
                inputs.append(Ref(len(numbers)))
            elif node.op == "call_function":
                kwargs = {name: value(argument) for name, argument in node.kwargs.items()}
                calls.append(Call(_named(node.target), tuple(value(argument) for argument in node.args), kwargs))
            else:
                raise TypeError(node.op)
            numbers[node] = len(numbers)
        return graph_json(Graph(tuple(inputs), (), tuple(calls), outputs))

    @staticmethod
    def read(written: Json, device: torch.device) -> Part:
        """The part that `written` returned, to run on `device`.

        Raises:
            ProgramInvalid: `written` is not a graph.
            ProgramRejected: it calls an operator that is not allowed in traces, or its outputs are not lists.
        """
        where = "a kept trace"
        budget = Budget(nodes=MAX_TRACE_NODES, values=MAX_TRACE_VALUES)
        graph = parse_graph(written, constants=(), budget=budget, where=where)
        if not _is_list(graph.outputs):
            raise ProgramRejected(reason=f"{where}: its outputs are not lists.")
        return Part(build(check_graph(graph, of_trace, where=where), device))


def part(owner: fx.GraphModule, nodes: Sequence[fx.Node], inputs: Sequence[fx.Node], outputs: list[Any]) -> Part:
    """`nodes` of `owner`, in their order, as a function of `inputs`."""
    made, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in inputs:
        copies[node] = made.placeholder(node.name)
    for node in nodes:
        if node not in copies:
            copies[node] = made.node_copy(node, copies.__getitem__)
            if node.target is torch.ops.aten.view.default:
                # The same if a view is possible; under vmap it may not be.
                copies[node].target = torch.ops.aten.reshape.default
    made.output(fx.map_arg(outputs, copies.__getitem__))
    return Part(fx.GraphModule(owner, made))


def _named(target: object) -> str:
    if target is operator.getitem:
        return GETITEM
    if of_trace(str(target)) is None:
        raise TypeError(str(target))
    return str(target)


def _is_list(tree: GraphValue) -> bool:
    """Whether `tree` is a list of values and of such lists."""
    return isinstance(tree, list) and all(isinstance(item, Ref) or item is None or _is_list(item) for item in tree)
