"""Trace what a custom `autograd.Function`, or a hook on a tensor, computes forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import CheckpointFunction

from nestor.errors import NotExportable
from nestor_engine.graphs.operators import HigherOrderOperator, is_operator, schema_of
from nestor_engine.program.failures import CHECKPOINT, NO_SUCH_OPERATOR
from nestor_engine.program.functions import MARKER, Call

if TYPE_CHECKING:
    from nestor_engine.program.trace import Traced

Trace = Callable[[str, Callable[..., Any], tuple[Any, ...], tuple[Any, ...]], "Traced"]
_REMEDY = NO_SUCH_OPERATOR[""][1]


@dataclass(frozen=True)
class Differentiated:
    """A call with a backward of its own, as graphs; see `nestor.program_format.Region` for their signatures.

    Attributes:
        results: how many values the call returns; `forward` also returns what it saves for `backward`.
        without: the positions of the results that have no gradient.
        module, functions: as in `Traced`, of both graphs.
    """

    name: str
    results: int
    without: tuple[int, ...]
    returns_tuple: bool
    forward: fx.Graph
    backward: fx.Graph
    module: nn.Module
    functions: dict[str, Differentiated]


class Context:
    """The `ctx` of a Function: keeps what `forward` saves, with its outputs and arguments exchanged for `backward`."""

    def __init__(self, needed: tuple[bool, ...]) -> None:
        self.needs_input_grad = needed
        self.saved_tensors: tuple[Any, ...] = ()
        self._without: tuple[Tensor, ...] = ()
        self._dirty = False

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """As in torch."""
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """As in torch."""
        self._without = tensors

    def mark_dirty(self, *tensors: Tensor) -> None:
        """As in torch; a program cannot hold such a Function."""
        self._dirty = bool(tensors)

    def save_for_forward(self, *tensors: Tensor) -> None:
        """Nothing: it is for forward mode, which is not used."""

    def set_materialize_grads(self, value: bool) -> None:
        """Nothing: a program gives zeros for the gradients of results that are not used."""

    def positions_without(self, results: Sequence[Any]) -> tuple[int, ...]:
        """The positions of the results that have no gradient."""
        marked = {id(tensor) for tensor in self._without}
        return tuple(i for i, r in enumerate(results) if id(r) in marked or not r.is_floating_point())

    def exchange(self, known: dict[int, Tensor]) -> list[Tensor]:
        """Replace saved arguments and results by `known` (id → tensor); return the other saved tensors.

        Raises:
            ValueError: the Function writes into an argument.
        """
        if self._dirty:
            raise ValueError("it writes into its argument (mark_dirty)")
        others: dict[int, Tensor] = {}

        def exchanged(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return known[id(leaf)] if id(leaf) in known else others.setdefault(id(leaf), leaf)

        for name, value in vars(self).items():
            if name not in ("_without", "needs_input_grad"):
                setattr(self, name, pytree.tree_map(exchanged, value))
        return list(others.values())


def marked(module: nn.Module) -> list[str]:
    """The keys of the calls in a traced module, and in its regions."""
    graphs = (cast(Any, part).graph for part in module.modules() if isinstance(part, fx.GraphModule))
    return sorted({str(n.args[0]) for graph in graphs for n in graph.find_nodes(op="call_function", target=MARKER)})


def differentiate(function: str, call: Call, trace: Trace) -> Differentiated:
    """The graphs of one call.

    Raises:
        NotExportable: its forward or backward cannot be traced; the message names its class.
    """
    if call.cls is CheckpointFunction:
        reason, remedy = CHECKPOINT
        raise NotExportable(function=function, where=call.where, reason=reason, remedy=remedy)
    try:
        return _differentiate(function, call, trace)
    except NotExportable as error:
        reason = f"the backward of {call.name} cannot be exported: {error.context.get('reason', error)}"
        remedy = str(error.context.get("remedy") or _REMEDY)
        raise NotExportable(function=function, where=call.where, reason=reason, remedy=remedy) from error
    except ValueError as error:
        reason = f"{call.name} has a backward of its own, and {error}."
        raise NotExportable(function=function, where=call.where, reason=reason, remedy=_REMEDY) from error


def _differentiate(function: str, call: Call, trace: Trace) -> Differentiated:
    if any(isinstance(arg, torch.SymInt | torch.SymFloat | torch.SymBool) for arg in call.args):
        raise ValueError("takes a size as an argument; take it from a tensor inside, as in x.shape[0]")
    if not all(isinstance(result, Tensor) for result in call.results):
        raise ValueError("returns something else than tensors")
    tensors = [arg for arg in call.args if isinstance(arg, Tensor)]
    needed = tuple(isinstance(arg, Tensor) and arg.requires_grad for arg in call.args)
    without: list[tuple[int, ...]] = []

    def joint(args: list[Tensor], outputs: list[Tensor], grads: list[Tensor]) -> Any:
        """Forward and backward: its results, the other tensors that it saves, and the arguments' gradients."""
        given = iter(args)
        inputs = tuple(next(given) if isinstance(arg, Tensor) else arg for arg in call.args)
        context = Context(needed)
        results = _forward(call.cls, context, inputs)
        without.append(context.positions_without(results))
        # A derivative of the backward also goes through the arguments and results that it reads.
        known = dict(zip(map(id, (*args, *results)), (*args, *outputs), strict=True))
        known |= {id(arg): arg for arg in args}  # where a result is an argument
        saved = context.exchange(known)
        gradients = iter(grads)
        incoming = [next(gradients) if result.is_floating_point() else None for result in results]
        slopes = _backward(call.cls)(context, *incoming)
        slopes = cast("tuple[Any, ...]", slopes) if isinstance(slopes, tuple) else (slopes,)
        kept = [s if need else None for s, need in zip(slopes, needed, strict=False)]
        return list(results), saved, [s for s, arg in zip(kept, call.args, strict=True) if isinstance(arg, Tensor)]

    floating = [result for result in call.results if result.is_floating_point()]
    examples = tuple([_example(t) for t in group] for group in (tensors, call.results, floating))
    sizes = tuple([_sizes(t) for t in group] for group in (tensors, call.results, floating))
    traced = trace(f"{function}, {call.name}", joint, examples, sizes)
    if traced.constants:
        raise ValueError("reads a tensor that is not among its arguments; pass it to apply")
    n_args, n_results = len(tensors), len(call.results)
    placeholders = cast("list[fx.Node]", traced.inputs[1])
    args, rest = placeholders[:n_args], placeholders[n_args:]
    outputs, gradients = rest[:n_results], iter(rest[n_results:])
    results, saved, slopes = (list(part) for part in _split(traced.outputs))
    grads = [next(gradients) if result.is_floating_point() else None for result in call.results]
    return Differentiated(
        name=call.name,
        results=n_results,
        without=without[-1],
        returns_tuple=call.returns_tuple,
        forward=_part(traced.graph, args, [*results, *saved]),
        backward=_part(traced.graph, [*args, *outputs, *saved, *grads], slopes),
        module=traced.module,
        functions=traced.functions,
    )


def _forward(cls: Any, context: Context, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    if not hasattr(cls, "setup_context") or cls.setup_context is torch.autograd.Function.setup_context:
        returned = cls.forward(context, *inputs)
    else:
        returned = cls.forward(*inputs)
        cls.setup_context(context, inputs, returned)
    return cast("tuple[Any, ...]", returned) if isinstance(returned, tuple) else (returned,)


def _backward(cls: Any) -> Callable[..., Any]:
    own = getattr(cls, "vjp", torch.autograd.Function.vjp)
    return cls.backward if own is torch.autograd.Function.vjp else own


def _split(outputs: tuple[pytree.TreeSpec, list[Any]]) -> Iterator[list[Any]]:
    spec, leaves = outputs
    yield from pytree.tree_unflatten(leaves, spec)


def _part(graph: fx.Graph, inputs: Sequence[fx.Node | None], outputs: list[Any]) -> fx.Graph:
    """The nodes of `graph` between `inputs` and `outputs`; an input that is None is not read."""
    made, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for number, node in enumerate(inputs):
        placeholder = made.placeholder(f"input{number}")
        if node is not None:
            copies.setdefault(node, placeholder)
    for node in graph.nodes:
        readable = all(read in copies for read in node.all_input_nodes)
        if node not in copies and node.op in ("call_function", "get_attr") and readable:
            copies[node] = made.node_copy(node, copies.__getitem__)
    try:
        made.output(tuple(None if leaf is None else copies[leaf] for leaf in outputs))
    except KeyError as error:
        raise ValueError("its forward cannot be separated from its backward") from error
    made.eliminate_dead_code(is_impure_node=_writes)
    return made


def _writes(node: fx.Node) -> bool:
    """Whether the node matters also if nobody reads its value."""
    if node.op in ("placeholder", "output") or isinstance(node.target, HigherOrderOperator):
        return True
    return is_operator(node.target) and schema_of(node.target).is_mutable


def _example(tensor: Tensor) -> Tensor:
    """A tensor like one of a trace, with storage."""
    sizes = cast("tuple[Any, ...]", tuple(tensor.shape))  # numbers and symbols
    shape: list[int] = [int(size) if type(size) is int else size.node.hint for size in sizes]
    made = torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
    return made.requires_grad_(tensor.requires_grad)


def _sizes(tensor: Tensor) -> dict[int, Any] | None:
    varying = [dim for dim, size in enumerate(tensor.shape) if isinstance(size, torch.SymInt)]
    return dict.fromkeys(varying, torch.export.Dim.DYNAMIC) or None
