"""A traced graph as a graph of the program format."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch._subclasses import FakeTensor
from torch.utils import _pytree as pytree

from nestor.errors import NotExportable
from nestor.program_format import Call, Graph, GraphValue, Ref, Region, valid_name
from nestor_engine.graphs.operators import GETITEM, SIZES, HigherOrderOperator, OpOverload, lookup
from nestor_engine.graphs.values import graph_value
from nestor_engine.program.backwards import Differentiated
from nestor_engine.program.failures import NO_SUCH_OPERATOR, place_of
from nestor_engine.program.functions import MARKER
from nestor_engine.program.trace import Traced

# Uninitialized memory may hold data of others. Zeros have the same meaning to a correct program.
_WRITTEN = {
    "aten.empty.memory_format": "aten.zeros.default",
    "aten.empty_like.default": "aten.zeros_like.default",
    "aten.new_empty.default": "aten.new_zeros.default",
}
# Checks that the tracer adds for itself.
_CHECKS = (
    "aten._assert_tensor_metadata",
    "aten._assert_scalar",
    "aten._assert_async",
    "aten.sym_constrain_range",
    "aten._functional_",
)
_SIZES: dict[Any, str] = {function: name for name, (function, _) in SIZES.items()}
_REGIONS = {"wrap_with_set_grad_enabled": "grad", "wrap_with_autocast": "autocast"}


def write(traced: Traced) -> tuple[Graph, dict[str, Tensor]]:
    """The function as a graph, and the constants that it reads by name.

    Raises:
        NotExportable: an operator or a value that a program cannot hold.
    """
    inputs = [_tree(child, leaves) for child, leaves in _arguments(traced)]
    if traced.name != "penalty":
        # The data need not have columns that the function does not read.
        inputs[-1] = {name: node for name, node in inputs[-1].items() if node.users}
    constants = {node: _digest(traced.name, tensor) for node, tensor in traced.constants.items()}
    writer = _Writer(traced.name, traced.module, traced.functions)
    for tree in inputs:
        writer.introduce(tree)
    for node in constants:
        writer.introduce(node)
    nodes = writer.nodes(traced.graph)
    spec, leaves = traced.outputs
    outputs = _tree(spec, iter(leaves))
    graph = Graph(
        inputs=tuple(writer.value(tree) for tree in inputs),
        constants=tuple(constants.values()),
        nodes=nodes,
        outputs=writer.value(outputs),
    )
    return graph, {name: traced.constants[node] for node, name in constants.items()}


class _Writer:
    """Numbers the values of one graph, and translates references to them."""

    def __init__(self, function: str, module: torch.nn.Module, functions: Mapping[str, Differentiated]) -> None:
        self._function, self._module, self._functions = function, module, functions
        self._numbers: dict[fx.Node | object, int] = {}

    def introduce(self, tree: Any) -> None:
        """Number the nodes of `tree`, in order, after those that have numbers."""
        for leaf in pytree.tree_leaves(tree):
            if isinstance(leaf, fx.Node):
                self._numbers[leaf] = len(self._numbers)

    def value(self, value: Any, node: fx.Node | None = None) -> GraphValue:
        """`value` with the numbers of its nodes; `node` is the one that reads it.

        Raises:
            NotExportable: graphs cannot represent it.
        """
        try:
            return graph_value(value, self._numbers.__getitem__)
        except (TypeError, KeyError) as error:
            raise NotExportable(
                function=self._function,
                where=place_of(node),
                reason=f"a graph cannot hold {error}.",
                remedy="Let functions take and return tensors, numbers, and dicts, lists and tuples of them.",
            ) from error

    def nodes(self, graph: fx.Graph) -> tuple[Call | Region, ...]:
        """The operators of `graph` in order, without the checks that the tracer adds.

        Raises:
            NotExportable: one of them is not allowed in a program.
        """
        written: list[Call | Region] = []
        for node in graph.nodes:
            if node.op != "call_function" or str(node.target).startswith(_CHECKS):
                continue
            if node.target is MARKER:
                called = self._functions[str(node.args[0])]
                written.append(self._with_backward(node, called))
                if not called.returns_tuple:
                    region = Ref(len(self._numbers))
                    self._numbers[object()] = region.index  # no node stands for the tuple
                    written.append(Call(GETITEM, (region, 0), {}))
            else:
                written.append(self._node(node))
            self.introduce(node)
        return tuple(written)

    def _node(self, node: fx.Node) -> Call | Region:
        if isinstance(node.target, HigherOrderOperator):
            return self._region(node, node.target.name())
        args, kwargs = list(node.args), dict(node.kwargs)
        target = str(node.target)
        if isinstance(node.target, OpOverload):
            name = _WRITTEN.get(target, target)
            kwargs.pop("pin_memory", None)  # about the host's memory, not about values
            if name != target:
                kwargs.pop("memory_format", None)
            if lookup(name) is None:
                raise self._refused(node, name)
        elif getattr(node.target, "__name__", "") == "getitem":
            name = GETITEM
        elif node.target in _SIZES:
            name = _SIZES[node.target]
        else:
            raise self._refused(node, getattr(node.target, "__name__", str(node.target)))
        return Call(
            name,
            tuple(self.value(arg, node) for arg in args),
            {key: self.value(arg, node) for key, arg in kwargs.items()},
        )

    def _region(self, node: fx.Node, name: str) -> Region:
        kind = _REGIONS.get(name)
        if kind is None:
            raise self._refused(node, name)
        args: tuple[Any, ...] = node.args
        at = next(i for i, arg in enumerate(args) if isinstance(arg, fx.Node) and arg.op == "get_attr")
        # autocast names its device first; a program has only one.
        options = args[:at] if kind == "grad" else args[1:at]
        inner: Any = self._module.get_submodule(str(args[at].target))
        given = [self.value(arg, node) for arg in args[at + 1 :]]
        if not all(isinstance(arg, Ref) for arg in given):
            raise self._refused(node, name)
        return Region(
            kind,
            tuple(self.value(option, node) for option in options),
            self._inner(inner.graph, inner, self._functions, node),
            tuple(arg for arg in given if isinstance(arg, Ref)),
        )

    def _with_backward(self, node: fx.Node, called: Differentiated) -> Region:
        return Region(
            "function",
            (called.results, called.without),
            self._inner(called.forward, called.module, called.functions, node),
            tuple(Ref(self._numbers[arg]) for arg in node.args if isinstance(arg, fx.Node)),
            self._inner(called.backward, called.module, called.functions, node),
        )

    def _inner(
        self, graph: fx.Graph, module: torch.nn.Module, functions: Mapping[str, Differentiated], node: fx.Node
    ) -> Graph:
        """The graph of a region; `node` calls it."""
        writer = _Writer(self._function, module, functions)
        placeholders = graph.find_nodes(op="placeholder")
        writer.introduce(placeholders)
        nodes = writer.nodes(graph)
        (returned,) = graph.find_nodes(op="output")
        return Graph(
            inputs=tuple(writer.value(placeholder) for placeholder in placeholders),
            constants=(),
            nodes=nodes,
            outputs=writer.value(tuple(returned.args[0]), node),
        )

    def _refused(self, node: fx.Node, name: str) -> NotExportable:
        key = "functorch" if "functorch" in getattr(node.target, "__module__", "") else name
        reason, remedy = NO_SUCH_OPERATOR.get(key, NO_SUCH_OPERATOR[""])
        return NotExportable(
            function=self._function, where=place_of(node), reason=reason.format(name=name), remedy=remedy
        )


def _arguments(traced: Traced) -> Iterator[tuple[pytree.TreeSpec, Iterator[Any]]]:
    spec, leaves = traced.inputs
    rest = iter(leaves)
    for child in spec.children():
        yield child, rest


def _tree(spec: pytree.TreeSpec, leaves: Iterator[Any]) -> Any:
    """Leaves in plain dicts, lists and tuples; richer containers become tuples of what they hold."""
    if spec.is_leaf():
        return next(leaves)
    children = [_tree(child, leaves) for child in spec.children()]
    if spec.type is list:
        return children
    context: Any = spec.context
    if isinstance(spec.type, type) and issubclass(spec.type, dict) and isinstance(context, list):
        listed = cast("list[Any]", context)
        keys: list[object] = listed if len(listed) == len(children) else listed[-1]
        if all(valid_name(key) for key in keys):
            return dict(zip(keys, children, strict=True))
    return tuple(children)


def _digest(function: str, constant: Tensor) -> str:
    """A name that depends only on the content, so that the same problem gives the same bytes."""
    if isinstance(constant, FakeTensor):
        raise NotExportable(
            function=function,
            where="",
            reason="it differentiates inside, which graphs do not support.",
            remedy="Leave torch.func and autograd out of models and losses.",
        )
    data = constant.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(f"{constant.dtype}{tuple(constant.shape)}".encode() + data).hexdigest()[:24]
