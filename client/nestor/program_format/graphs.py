"""One function of a program, or one part of a kept trace.

    {"inputs": [tree, …], "constants": [name, …], "nodes": [node, …], "outputs": tree}

Values are numbered: first the leaves of the inputs, then the constants, then one for each node. A node is
{"op": name, "args": […], "kwargs": {…}} or a region of another gradient or autocast mode, or one with its own backward:
{"region": "grad" | "autocast", "options": […], "graph": {…}, "args": […]},
{"region": "function", "options": [results, [position, …]], "graph": {…}, "backward": {…}, "args": […]}.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace

from nestor.errors import shown
from nestor.program_format.limits import MAX_REGION_LEVELS
from nestor.program_format.untrusted_json import Json, fields, list_of, refused
from nestor.program_format.values import DEVICE, Budget, GraphValue, Ref, TorchConstant, decode, encode, leaves


@dataclass(frozen=True)
class Call:
    """One operator with its arguments. Whether there is such an operator is not checked here."""

    op: str
    args: tuple[GraphValue, ...]
    kwargs: dict[str, GraphValue]


@dataclass(frozen=True)
class Region:
    """A graph that runs in another mode, or has a backward of its own; its results are the tuple `graph.outputs`.

    Attributes:
        kind: "grad" with the options (enabled,), "autocast" with (dtype, enabled, cache), or "function" with
            (results, positions of those without a gradient).
        args: what the graph's inputs are, one value each.
        backward: of a "function", what a `torch.autograd.Function` calls backward: (args, results, saved values,
            a gradient for each result) → for each argument its gradient, or None. The saved values are the outputs of
            `graph` behind the results.
    """

    kind: str
    options: tuple[GraphValue, ...]
    graph: Graph
    args: tuple[Ref, ...]
    backward: Graph | None = None

    @property
    def returned(self) -> tuple[Ref, ...]:
        """What the region returns, as values of its own graph."""
        refs = _refs(self.graph.outputs)
        match self.options:
            case (int() as results, tuple()) if self.backward is not None:
                return refs[:results]
            case _:
                return refs


@dataclass(frozen=True)
class Graph:
    """A function whose references are all to values that exist where they are read."""

    inputs: tuple[GraphValue, ...]
    constants: tuple[str, ...]
    nodes: tuple[Call | Region, ...]
    outputs: GraphValue

    @property
    def n_inputs(self) -> int:
        """How many values the inputs hold."""
        return sum(isinstance(leaf, Ref) for leaf in leaves(self.inputs))


def parse_graph(json: Json, *, constants: Container[str], budget: Budget, where: str, level: int = 0) -> Graph:
    """The graph that `json` describes.

    Args:
        constants: names of the tensors that it may read.
        where: names the graph in messages.

    Raises:
        ProgramInvalid: it is not exactly of the form above.
    """
    if level > MAX_REGION_LEVELS:
        raise refused(f"{where}: regions are nested deeper than {MAX_REGION_LEVELS} levels")
    entries = fields(json, ("inputs", "constants", "nodes", "outputs"), where)
    trees = list_of(entries["inputs"], f"{where}: inputs")
    # Inputs introduce the values that everything else refers to, so they are numbered in order.
    inputs = tuple(decode(tree, budget.values, budget, f"{where}, input {n}") for n, tree in enumerate(trees))
    numbers = [leaf.index for leaf in leaves(inputs) if isinstance(leaf, Ref)]
    if numbers != list(range(len(numbers))):
        raise refused(f"{where}: its inputs are not numbered in order")
    names: list[str] = []
    for name in list_of(entries["constants"], f"{where}: constants"):
        if not isinstance(name, str) or name not in constants:
            raise refused(f"{where}: it reads the constant {shown(name)}, which was not sent")
        names.append(name)
    budget.take(values=len(names))
    known = len(numbers) + len(names)
    nodes: list[Call | Region] = []
    for position, node in enumerate(list_of(entries["nodes"], f"{where}: nodes")):
        budget.take(nodes=1)
        at = f"{where}, node {position}"
        if isinstance(node, dict) and "region" in node:
            nodes.append(_region(node, known, budget, at, level))
        else:
            nodes.append(_call(node, known, budget, at))
        known += 1
    outputs = decode(entries["outputs"], known, budget, f"{where}, outputs")
    if DEVICE in leaves(outputs):
        raise refused(f"{where}, outputs: a device is not a result")
    return Graph(inputs, tuple(names), tuple(nodes), outputs)


def _call(json: Json, known: int, budget: Budget, where: str) -> Call:
    entries = fields(json, ("op", "args", "kwargs"), where)
    op, args, kwargs = entries["op"], list_of(entries["args"], f"{where}: args"), entries["kwargs"]
    if not isinstance(op, str):
        raise refused(f"{where}: op must be a name, not {shown(op)}")
    if not isinstance(kwargs, dict) or not all(key.isidentifier() for key in kwargs):
        raise refused(f"{where}: kwargs must be an object of arguments by name, not {shown(kwargs)}")
    where = f"{where} ({shown(op)})"
    return Call(
        op,
        tuple(decode(arg, known, budget, where) for arg in args),
        {key: decode(arg, known, budget, where) for key, arg in kwargs.items()},
    )


def _region(json: Json, known: int, budget: Budget, where: str, level: int) -> Region:
    parts = ("region", "options", "graph", "args")
    has_backward = isinstance(json, dict) and json.get("region") == "function"
    entries = fields(json, (*parts, "backward") if has_backward else parts, where)
    given = list_of(entries["options"], f"{where}: options")
    options = tuple(decode(option, 0, budget, where) for option in given)
    match entries["region"], options:
        case ("grad" as kind, (bool(),)):
            pass
        case ("autocast" as kind, (TorchConstant(kind="dtype"), bool(), bool())):
            pass
        case ("function" as kind, (int() as results, tuple(without))) if not isinstance(results, bool) and all(
            type(position) is int and 0 <= position < results for position in without
        ):
            pass
        case _:
            raise refused(f"{where}: {shown(entries['region'])} with {shown(given)} is not a region")
    args: list[Ref] = []
    for arg in list_of(entries["args"], f"{where}: args"):
        if not isinstance(value := decode(arg, known, budget, where), Ref):
            raise refused(f"{where}: a region takes values of the graph alone, not {shown(arg)}")
        args.append(value)
    graph = parse_graph(entries["graph"], constants=(), budget=budget, where=where, level=level + 1)
    if len(graph.inputs) != len(args) or not all(isinstance(tree, Ref) for tree in graph.inputs):
        raise refused(f"{where}: the inputs of a region must be one value for each of its {len(args)} arguments")
    if not isinstance(graph.outputs, tuple) or not all(isinstance(leaf, Ref) for leaf in graph.outputs):
        raise refused(f"{where}: a region returns a tuple of values")
    region = Region(kind, options, graph, tuple(args))
    if kind != "function":
        return region
    backward = parse_graph(
        entries["backward"], constants=(), budget=budget, where=f"{where}, backward", level=level + 1
    )
    _check_backward(region, options[0], backward, where)
    return replace(region, backward=backward)


def _check_backward(region: Region, results: GraphValue, backward: Graph, where: str) -> None:
    """Hold a backward to its signature; see `Region`."""
    n_args, outputs = len(region.args), _refs(region.graph.outputs)
    if not isinstance(results, int) or not 1 <= results <= len(outputs):
        raise refused(f"{where}: its graph has {len(outputs)} outputs, not the {shown(results)} results")
    wanted = n_args + len(outputs) + results
    if len(backward.inputs) != wanted or not all(isinstance(tree, Ref) for tree in backward.inputs):
        raise refused(f"{where}: the inputs of its backward must be {wanted} values")
    slopes = backward.outputs
    if (
        not isinstance(slopes, tuple)
        or len(slopes) != n_args
        or not all(s is None or isinstance(s, Ref) for s in slopes)
    ):
        raise refused(f"{where}: its backward returns a tuple of {n_args} values or nulls")


def _refs(tree: GraphValue) -> tuple[Ref, ...]:
    return tuple(leaf for leaf in (tree if isinstance(tree, tuple) else ()) if isinstance(leaf, Ref))


def graph_json(graph: Graph) -> Json:
    """The JSON that `parse_graph` reads."""
    return {
        "inputs": [encode(tree) for tree in graph.inputs],
        "constants": list(graph.constants),
        "nodes": [_node_json(node) for node in graph.nodes],
        "outputs": encode(graph.outputs),
    }


def _node_json(node: Call | Region) -> Json:
    if isinstance(node, Call):
        kwargs: dict[str, Json] = {name: encode(value) for name, value in node.kwargs.items()}
        return {"op": node.op, "args": [encode(arg) for arg in node.args], "kwargs": kwargs}
    backward: dict[str, Json] = {} if node.backward is None else {"backward": graph_json(node.backward)}
    return {
        **backward,
        "region": node.kind,
        "options": [encode(option) for option in node.options],
        "graph": graph_json(node.graph),
        "args": [encode(arg) for arg in node.args],
    }
