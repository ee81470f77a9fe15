"""One function of a program, read from JSON with every check there is.

    {"inputs": [tree, …], "constants": [name, …], "nodes": [node, …], "outputs": tree}

Values are numbered: first the leaves of the inputs, then the constants, then one for each node. A node is
{"op": name, "args": […], "kwargs": {…}} or a region of other gradient or autocast mode:
{"region": "grad" | "autocast", "options": {…}, "graph": {…}, "args": […]}.

Reading builds nothing and calls nothing (see `build`). What it lets through can still ask for absurd amounts of
memory or time when it runs; the runner process is what contains that.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nestor_engine.errors import ProgramRejected
from nestor_engine.graph_json import DEVICE, Budget, Json, Ref, Value, brief, decode, leaves
from nestor_engine.operators import EINSUM, GETITEM, SIZES, WORDS, Argument, Operator, lookup

MAX_REGIONS = 8

TENSOR, TENSORS, NUMBER = "tensor", "tensors", "number"
Kind = Any  # one of the three, or a tuple of kinds


@dataclass(frozen=True)
class Call:
    target: Callable[..., Any]
    args: tuple[Value, ...]
    kwargs: dict[str, Value]


@dataclass(frozen=True)
class Region:
    kind: str
    options: tuple[Value, ...]
    graph: Graph
    args: tuple[Ref, ...]


@dataclass(frozen=True)
class Graph:
    """A checked function; `kinds` says of every numbered value what it is."""

    inputs: tuple[Value, ...]
    constants: tuple[str, ...]
    nodes: tuple[Call | Region, ...]
    outputs: Value
    kinds: tuple[Kind, ...]


def read(
    json: Json,
    *,
    constants: frozenset[str],
    budget: Budget,
    where: str,
    given: Sequence[Kind] | None = None,
    depth: int = 0,
) -> Graph:
    """The function that `json` describes.

    Args:
        constants: names of the tensors that it may read.
        where: the function's name, for messages.
        given: what the inputs are, when they are not all tensors.

    Raises:
        ProgramRejected: it is not exactly of the form above, or calls an operator that is not allowed.
    """
    if depth > MAX_REGIONS:
        raise ProgramRejected(reason=f"{where}: regions are nested deeper than {MAX_REGIONS} levels.")
    fields(json, {"inputs", "constants", "nodes", "outputs"}, where)
    if not all(isinstance(json[key], list) for key in ("inputs", "constants", "nodes")):
        raise ProgramRejected(reason=f"{where}: inputs, constants and nodes must be lists.")
    # Inputs introduce the values that everything else refers to, so they are numbered in order.
    inputs = tuple(decode(tree, len(json["inputs"]) + budget.values, budget) for tree in json["inputs"])
    numbers = [leaf.index for leaf in leaves(inputs) if isinstance(leaf, Ref)]
    if numbers != list(range(len(numbers))) or (given is not None and len(given) != len(numbers)):
        raise ProgramRejected(reason=f"{where}: its inputs are not numbered in order.")
    for name in json["constants"]:
        if not isinstance(name, str) or name not in constants:
            raise ProgramRejected(reason=f"{where}: it reads the constant {brief(name)}, which was not sent.")
    budget.take(values=len(json["constants"]))
    kinds: list[Kind] = [*(given or [TENSOR] * len(numbers)), *([TENSOR] * len(json["constants"]))]
    nodes: list[Call | Region] = []
    for position, node in enumerate(json["nodes"]):
        budget.take(nodes=1)
        at = f"{where}, node {position}"
        if isinstance(node, dict) and "region" in node:
            region = _region(node, kinds, constants=constants, budget=budget, where=at, depth=depth)
            nodes.append(region)
            kinds.append(tuple(region.graph.kinds[ref.index] for ref in region.graph.outputs))
        else:
            call, kind = _call(node, kinds, budget, at)
            nodes.append(call)
            kinds.append(kind)
    outputs = decode(json["outputs"], len(kinds), budget)
    for leaf in leaves(outputs):
        if (isinstance(leaf, Ref) and not isinstance(kinds[leaf.index], str)) or leaf is DEVICE:
            raise ProgramRejected(reason=f"{where}: an output is neither a tensor nor a number.")
    return Graph(inputs, tuple(json["constants"]), tuple(nodes), outputs, tuple(kinds))


def fields(json: Json, names: set[str], where: str) -> None:
    """Refuse anything but an object with exactly these fields."""
    if not isinstance(json, dict) or set(json) != names:
        raise ProgramRejected(reason=f"{where}: expected an object with the fields {', '.join(sorted(names))}.")


def _call(json: Json, kinds: Sequence[Kind], budget: Budget, where: str) -> tuple[Call, Kind]:
    fields(json, {"op", "args", "kwargs"}, where)
    name = json["op"]
    if not isinstance(name, str) or not isinstance(json["args"], list) or not isinstance(json["kwargs"], dict):
        raise ProgramRejected(reason=f"{where}: op must be a name, args a list and kwargs an object.")
    where = f"{where} ({brief(name)})"
    args = tuple(decode(arg, len(kinds), budget) for arg in json["args"])
    kwargs = {key: decode(arg, len(kinds), budget) for key, arg in json["kwargs"].items()}
    if name == GETITEM:
        return _getitem(args, kwargs, kinds, where)
    if name in SIZES:
        target, arity = SIZES[name]
        if len(args) != arity or kwargs or not all(_accepts("number", arg, kinds) for arg in args):
            raise ProgramRejected(reason=f"{where}: it takes {arity} numbers.")
        return Call(target, args, {}), NUMBER
    operator = lookup(name)
    if operator is None:
        raise ProgramRejected(reason=f"{where}: this operator is not one that a program may use.")
    _check_arguments(operator, args, kwargs, kinds, where)
    returns = tuple({"Tensor": TENSOR, "List[Tensor]": TENSORS}.get(kind, NUMBER) for kind in operator.returns)
    return Call(operator.target, args, kwargs), returns[0] if len(returns) == 1 else returns


def _getitem(args: tuple[Value, ...], kwargs: dict[str, Value], kinds: Sequence[Kind], where: str) -> tuple[Call, Kind]:
    if len(args) == 2 and not kwargs and isinstance(args[0], Ref) and type(args[1]) is int:
        position, kind = args[1], kinds[args[0].index]
        if kind == TENSORS and position >= 0:
            return Call(item, args, {}), TENSOR
        if isinstance(kind, tuple) and 0 <= position < len(kind):
            return Call(item, args, {}), kind[position]
    raise ProgramRejected(reason=f"{where}: it takes several results and the position of one of them.")


def _check_arguments(
    operator: Operator, args: tuple[Value, ...], kwargs: dict[str, Value], kinds: Sequence[Kind], where: str
) -> None:
    positional = [argument for argument in operator.arguments if not argument.keyword_only]
    if len(args) > len(positional):
        raise ProgramRejected(reason=f"{where}: {len(args)} arguments, but it takes at most {len(positional)}.")
    given = {argument.name: value for argument, value in zip(positional, args, strict=False)}
    for name, value in kwargs.items():
        if name in given or keyword.iskeyword(name) or name not in {argument.name for argument in operator.arguments}:
            raise ProgramRejected(reason=f"{where}: it takes no such argument as {brief(name)}.")
        given[name] = value
    for argument in operator.arguments:
        if argument.name not in given:
            if argument.required:
                raise ProgramRejected(reason=f"{where}: the argument {argument.name!r} is missing.")
        elif not _fits(argument, given[argument.name], kinds):
            got = brief(given[argument.name])
            raise ProgramRejected(reason=f"{where}: the argument {argument.name!r} must be {argument.type}, not {got}.")


def _fits(argument: Argument, value: Value, kinds: Sequence[Kind]) -> bool:
    if argument.name == "equation":
        return isinstance(value, str) and EINSUM.fullmatch(value) is not None
    if argument.repeats and argument.type in ("List[int]", "List[float]", "Optional[List[int]]"):
        return _accepts(argument.type, value, kinds) or _accepts("number", value, kinds)
    return _accepts(argument.type, value, kinds)


def _accepts(type_: str, value: Value, kinds: Sequence[Kind]) -> bool:
    """Whether `value` is of a type of torch's schema language. Types that are not named here accept nothing."""
    if type_.startswith("Optional["):
        return value is None or _accepts(type_[9:-1], value, kinds)
    kind = kinds[value.index] if isinstance(value, Ref) else None
    if type_.startswith("List["):
        if kind is not None:
            return kind == TENSORS and type_ == "List[Tensor]"
        return isinstance(value, list | tuple) and all(_accepts(type_[5:-1], item, kinds) for item in value)
    match type_:
        case "Tensor":  # a number becomes a tensor of no dimensions, as in x + 1
            return kind in (TENSOR, NUMBER) or isinstance(value, int | float)
        case "int":
            return kind == NUMBER or type(value) is int
        case "float" | "number":
            return kind == NUMBER or isinstance(value, int | float)
        case "bool":
            return kind == NUMBER or type(value) is bool
        case "str":
            return isinstance(value, str) and value in WORDS
        case "Device":
            return value is DEVICE
        case "ScalarType":
            return isinstance(value, torch.dtype)
        case "Layout":
            return isinstance(value, torch.layout)
        case "MemoryFormat":
            return isinstance(value, torch.memory_format)
        case _:
            return False


def _region(
    json: Json, kinds: Sequence[Kind], *, constants: frozenset[str], budget: Budget, where: str, depth: int
) -> Region:
    fields(json, {"region", "options", "graph", "args"}, where)
    options = json["options"]
    if not isinstance(json["args"], list) or not isinstance(options, list):
        raise ProgramRejected(reason=f"{where}: args and options must be lists.")
    values = tuple(decode(option, 0, budget) for option in options)
    types = tuple(type(value) for value in values)
    if (json["region"], types) not in (("grad", (bool,)), ("autocast", (torch.dtype, bool, bool))):
        raise ProgramRejected(reason=f"{where}: {brief(json['region'])} with {brief(options)} is not a region.")
    args = tuple(decode(arg, len(kinds), budget) for arg in json["args"])
    if not all(isinstance(arg, Ref) and isinstance(kinds[arg.index], str) for arg in args):
        raise ProgramRejected(reason=f"{where}: a region takes tensors and numbers only.")
    given = [kinds[arg.index] for arg in args]
    graph = read(json["graph"], constants=constants, budget=budget, where=where, given=given, depth=depth + 1)
    if not all(isinstance(tree, Ref) for tree in graph.inputs) or graph.constants:
        raise ProgramRejected(reason=f"{where}: a region takes plain values.")
    if not isinstance(graph.outputs, tuple) or not all(isinstance(leaf, Ref) for leaf in graph.outputs):
        raise ProgramRejected(reason=f"{where}: a region returns a tuple of values.")
    return Region(json["region"], values, graph, args)


def item(values: Sequence[Any], position: int) -> Any:
    return values[position]
