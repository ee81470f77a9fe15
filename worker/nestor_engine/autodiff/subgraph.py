"""A part of a traced graph: run without autograd, and written down as JSON for whoever traces the same again."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from nestor_engine.errors import ProgramRejected
from nestor_engine.graph_json import DEVICE, Budget, Json, Ref, decode, encode
from nestor_engine.operators import of_trace

MOST = 1_000_000  # nodes of a graph that is read, and a tenth of its values
_NAME = re.compile(r"aten\.(\w{1,64})\.(\w{1,64})", re.ASCII)


class Part:
    """A graph of torch's own operators, as a function of tensors; its outputs are lists, possibly nested."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module

    @torch.no_grad()
    def __call__(self, *given: Tensor) -> Any:
        return self.module(*given)

    def written(self) -> Json:
        """
        Raises:
            TypeError: it holds what cannot be written, such as a constant tensor.
        """
        numbers: dict[fx.Node, int] = {}
        nodes, inputs, outputs = [], 0, None
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                inputs += 1
            elif node.op == "call_function":
                nodes.append([_named(node.target), *(encode(v, numbers.__getitem__) for v in (node.args, node.kwargs))])
            elif node.op == "output":
                outputs = encode(node.args[0], numbers.__getitem__)
                continue
            else:
                raise TypeError(node.op)
            numbers[node] = len(numbers)
        return {"inputs": inputs, "nodes": nodes, "outputs": outputs}

    @staticmethod
    def read(written: Json, device: torch.device) -> Part:
        """What was written, to run on `device`.

        Raises:
            ProgramRejected, KeyError, TypeError, ValueError: it was not.
        """
        budget, made = Budget(nodes=MOST, values=10 * MOST), fx.Graph()
        values = [made.placeholder(f"given_{k}") for k in range(written["inputs"])]

        def fill(value: Any) -> Any:
            if isinstance(value, Ref):
                return values[value.index]
            if isinstance(value, list | tuple):
                return type(value)(fill(item) for item in value)
            return device if value is DEVICE else value

        for name, args, kwargs in written["nodes"]:
            budget.take(nodes=1)
            given, named = (decode(part, len(values), budget) for part in (args, kwargs))
            options = {key: fill(value) for key, value in named.items()}
            values.append(made.call_function(_target(name), tuple(fill(given)), options))
        made.output(fill(decode(written["outputs"], len(values), budget)))
        return Part(fx.GraphModule({}, made))


def part(owner: fx.GraphModule, nodes: Sequence[fx.Node], inputs: Sequence[fx.Node], outputs: list[Any]) -> Part:
    """`nodes` of `owner`, in their order, as a function of `inputs`."""
    made, copies = fx.Graph(), {}
    for node in inputs:
        copies[node] = made.placeholder(node.name)
    for node in nodes:
        if node not in copies:
            copies[node] = made.node_copy(node, copies.__getitem__)
            if node.target is torch.ops.aten.view.default:
                # The same where a view is possible, which under vmap it need not be.
                copies[node].target = torch.ops.aten.reshape.default
    made.output(fx.map_arg(outputs, copies.__getitem__))
    return Part(fx.GraphModule(owner, made))


def _named(target: Callable[..., Any] | str) -> str:
    name = "getitem" if target is operator.getitem else str(target)
    if name != "getitem" and not _NAME.fullmatch(name):
        raise TypeError(name)
    return name


def _target(name: str) -> Callable[..., Any]:
    if name == "getitem":
        return operator.getitem
    if (found := of_trace(name)) is None:
        raise ProgramRejected(reason=f"{name!r} is no operator that a trace may hold.")
    return found
