"""Trace a function into one graph, and divide it into what depends on a vector and what does not.

A curvature product is linear in its vector, so at one linearization most of its graph is the same for
every vector: the network's activations, its first backward pass, the factors of each rule of
differentiation. That part runs once; the rest runs for each product, without autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from nestor_engine.autodiff.simplify import dependents, simplify
from nestor_engine.autodiff.subgraph import Part, part
from nestor_engine.graphs.tracing import traced_here, tracing

Group = Sequence[Tensor]


@dataclass(frozen=True)
class Split:
    """The parts of a traced function of tensors (the point) and of vectors.

    Attributes:
        once: (*point) → [values that the other parts read, outputs that depend on no vector].
        each: for each vector, (*values read, vector) → the outputs that depend on it.
    """

    once: Part
    each: tuple[Part, ...]


def split(function: Callable[..., Sequence[Group]], point: Sequence[Tensor], vectors: Sequence[Tensor]) -> Split:
    """Trace `function(point, *vectors)` → groups of outputs: the first depends on no vector, the others on one each.

    The trace is valid for tensors of these shapes and dtypes, on this device. It runs the operators of
    autograd in the same order, so it computes the same bits.

    Raises:
        Exception: any, if the function reads values of a tensor or calls something that cannot be traced.
    """
    sizes: list[int] = []

    def flat(*given: Tensor) -> list[Tensor]:
        traced_here()
        groups = function(given[: len(point)], *given[len(point) :])
        sizes.extend(len(group) for group in groups)
        return [output for group in groups for output in group]

    # The tracer distinguishes inputs by identity, so all must be different objects.
    inputs = [given.detach() for given in (*point, *vectors)]
    # Fake tensors have no storage: the tracer keeps every intermediate value until the end.
    with tracing():
        traced = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    graph = traced.graph
    # Unused random draws stay, because later draws must be those that autograd would make.
    graph.eliminate_dead_code()
    arguments = [node for node in graph.nodes if node.op == "placeholder"]
    simplify(graph, arguments[len(point) :])
    outputs = iter(next(node for node in graph.nodes if node.op == "output").args[0])
    groups = [[next(outputs) for _ in range(size)] for size in sizes]

    arriving = arguments[len(point) :]
    reached = dependents(graph, arriving)
    needed = [_upstream(group, reached) for group in groups[1:]]
    fixed = [node for node in graph.nodes if node.op != "output" and node not in reached]
    read = [n for n in fixed if any(n in group for group in groups[1:]) or any(n.users.keys() & s for s in needed)]

    return Split(
        once=part(traced, fixed, arguments[: len(point)], [read, groups[0]]),
        each=tuple(
            part(traced, [n for n in graph.nodes if n in nodes], [*read, vector], group)
            for nodes, vector, group in zip(needed, arriving, groups[1:], strict=True)
        ),
    )


def _upstream(nodes: Iterable[fx.Node], within: set[fx.Node]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        if (node := waiting.pop()) in within and node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found
