"""Check that the operators of a graph are allowed, and that their arguments match torch's schemas.

`nestor.program_format` checks the form. Here every operator is looked up in a list, and its arguments are held to its
schema and to bounds (see `bounds`). Checking builds nothing and calls nothing (see `build`). A graph that passes can
still need any amount of memory or time when it runs; the runner process limits these.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from nestor.errors import ProgramRejected, shown
from nestor.program_format import DEVICE, Call, Graph, GraphValue, Ref, Region, TorchConstant, leaves
from nestor_engine.graphs.bounds import GUARDS, guarded, in_64_bits, is_setting, limit_of, too_large
from nestor_engine.graphs.operators import EINSUM, GETITEM, SIZES, WORDS, AtenOperator, OperatorArgument

TENSOR, TENSORS, NUMBER = "tensor", "tensors", "number"
Kind: TypeAlias = "str | tuple[Kind, ...]"  # one of the three, or of each of several results
Lookup = Callable[[str], AtenOperator | None]

_CONSTANTS = {"ScalarType": "dtype", "Layout": "layout", "MemoryFormat": "memory_format"}
_INTEGERS = frozenset({"int", "List[int]", "Optional[int]", "Optional[List[int]]"})
_KINDS = {"Tensor": TENSOR, "List[Tensor]": TENSORS}


@dataclass(frozen=True)
class CheckedGraph:
    """A graph that may be built.

    Attributes:
        kinds: what every numbered value is.
        targets: for each node the function that it calls, or the checked graph of a region.
        backwards: the checked backward graphs, by the position of their region.
    """

    graph: Graph
    kinds: tuple[Kind, ...]
    targets: tuple[Callable[..., Any] | CheckedGraph, ...]
    backwards: Mapping[int, CheckedGraph]


def check_graph(graph: Graph, lookup: Lookup, *, where: str, given: Sequence[Kind] | None = None) -> CheckedGraph:
    """Check the operators of a graph and of its regions, and find the kind of every value.

    Args:
        lookup: name → allowed operator; `operators.lookup` for programs, `operators.of_trace` for saved traces.
        where: the function's name, for messages.
        given: the kinds of the inputs' values; all tensors by default.

    Raises:
        ProgramRejected: an operator is not allowed, or does not take what it is given.
    """
    kinds: list[Kind] = [*(given or [TENSOR] * graph.n_inputs), *([TENSOR] * len(graph.constants))]
    targets: list[Callable[..., Any] | CheckedGraph] = []
    backwards: dict[int, CheckedGraph] = {}
    for position, node in enumerate(graph.nodes):
        at = f"{where}, node {position}"
        if isinstance(node, Region):
            region = _check_region(node, kinds, lookup, at)
            targets.append(region)
            if node.backward is not None:
                backwards[position] = _check_backward(node, node.backward, region, lookup, at)
            kinds.append(tuple(region.kinds[ref.index] for ref in node.returned))
        else:
            target, kind = _check_call(node, kinds, lookup, f"{at} ({shown(node.op)})")
            targets.append(target)
            kinds.append(kind)
    for leaf in leaves(graph.outputs):
        if isinstance(leaf, Ref) and not isinstance(kinds[leaf.index], str):
            raise ProgramRejected(reason=f"{where}: an output is neither a tensor nor a number.")
    return CheckedGraph(graph, tuple(kinds), tuple(targets), backwards)


def _check_region(region: Region, kinds: Sequence[Kind], lookup: Lookup, where: str) -> CheckedGraph:
    given = [kinds[arg.index] for arg in region.args]
    if not all(isinstance(kind, str) for kind in given):
        raise ProgramRejected(reason=f"{where}: a region takes tensors and numbers only.")
    return check_graph(region.graph, lookup, where=where, given=given)


def _check_backward(region: Region, backward: Graph, forward: CheckedGraph, lookup: Lookup, where: str) -> CheckedGraph:
    given = forward.kinds[: len(region.args)]
    outputs = [forward.kinds[leaf.index] for leaf in leaves(forward.graph.outputs) if isinstance(leaf, Ref)]
    if not all(kind == TENSOR for kind in outputs):
        raise ProgramRejected(reason=f"{where}: a region with a backward returns tensors only.")
    grads = [TENSOR] * len(region.returned)
    checked = check_graph(backward, lookup, where=f"{where}, backward", given=[*given, *outputs, *grads])
    for kind, slope in zip(given, leaves(backward.outputs), strict=True):
        if isinstance(slope, Ref) and not (kind == checked.kinds[slope.index] == TENSOR):
            raise ProgramRejected(reason=f"{where}: a gradient is a tensor, of a tensor.")
    return checked


def _check_call(call: Call, kinds: Sequence[Kind], lookup: Lookup, where: str) -> tuple[Callable[..., Any], Kind]:
    if call.op == GETITEM:
        return item, _kind_of_item(call, kinds, where)
    if call.op in SIZES:
        target, arity = SIZES[call.op]
        if len(call.args) != arity or call.kwargs or not all(_accepts("number", arg, kinds) for arg in call.args):
            raise ProgramRejected(reason=f"{where}: it takes {arity} numbers.")
        return in_64_bits(call.op, target), NUMBER
    operator = lookup(call.op)
    if operator is None:
        raise ProgramRejected(reason=f"{where}: programs may not use this operator.")
    given = _check_arguments(operator, call, kinds, where)
    computed = frozenset(name for name, value in given.items() if is_setting(name) and _has_number(value, kinds))
    target = operator.target if not (computed or operator.base in GUARDS) else guarded(operator, computed)
    returns = tuple(_KINDS.get(type_, NUMBER) for type_ in operator.returns)
    return target, returns[0] if len(returns) == 1 else returns


def _kind_of_item(call: Call, kinds: Sequence[Kind], where: str) -> Kind:
    match call.args:
        case (Ref(index), int() as position) if not call.kwargs and not isinstance(position, bool):
            kind = kinds[index]
            if kind == TENSORS and position >= 0:
                return TENSOR
            if isinstance(kind, tuple) and 0 <= position < len(kind):
                return kind[position]
        case _:
            pass
    raise ProgramRejected(reason=f"{where}: it takes several results and the position of one of them.")


def _check_arguments(operator: AtenOperator, call: Call, kinds: Sequence[Kind], where: str) -> dict[str, GraphValue]:
    """The arguments by name, each of a value that the operator takes."""
    positional = [argument for argument in operator.arguments if not argument.keyword_only]
    if len(call.args) > len(positional):
        raise ProgramRejected(reason=f"{where}: {len(call.args)} arguments, but it takes at most {len(positional)}.")
    given = {argument.name: value for argument, value in zip(positional, call.args, strict=False)}
    for name, value in call.kwargs.items():
        if name in given or keyword.iskeyword(name) or name not in {argument.name for argument in operator.arguments}:
            raise ProgramRejected(reason=f"{where}: unknown argument {shown(name)}.")
        given[name] = value
    for argument in operator.arguments:
        if argument.name not in given:
            if argument.required:
                raise ProgramRejected(reason=f"{where}: the argument {argument.name!r} is missing.")
        elif not _fits(argument, given[argument.name], kinds, only_tensors=operator.base in GUARDS):
            got = shown(given[argument.name])
            raise ProgramRejected(reason=f"{where}: the argument {argument.name!r} must be {argument.type}, not {got}.")
        elif argument.type in _INTEGERS and too_large(argument.name, given[argument.name]):
            limit = f"{limit_of(argument.name):,}"
            raise ProgramRejected(reason=f"{where}: the argument {argument.name!r} must be at most {limit}.")
    return given


def _has_number(value: GraphValue, kinds: Sequence[Kind]) -> bool:
    """Whether a number that the graph computes is, or is in, an argument."""
    return any(isinstance(leaf, Ref) and kinds[leaf.index] == NUMBER for leaf in leaves(value))


def _fits(argument: OperatorArgument, value: GraphValue, kinds: Sequence[Kind], *, only_tensors: bool) -> bool:
    if only_tensors and "Tensor" in argument.type and (isinstance(value, int | float) or _has_number(value, kinds)):
        return False  # guards take no number for a tensor
    if argument.name == "pin_memory":  # memory of the host, which is not the program's to lock
        return value is None or value is False
    if argument.name == "equation":
        return isinstance(value, str) and EINSUM.fullmatch(value) is not None
    if argument.length and argument.type in ("List[int]", "List[float]", "Optional[List[int]]"):
        return _accepts(argument.type, value, kinds) or _accepts("number", value, kinds)
    return _accepts(argument.type, value, kinds)


def _accepts(type_: str, value: GraphValue, kinds: Sequence[Kind]) -> bool:
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
            return value == DEVICE
        case "ScalarType" | "Layout" | "MemoryFormat":
            return isinstance(value, TorchConstant) and value.kind == _CONSTANTS[type_]
        case _:
            return False


def item(values: Sequence[Any], position: int) -> Any:
    """One of the results of an operator."""
    return values[position]
