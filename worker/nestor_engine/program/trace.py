"""Trace one function of a problem with torch.export, and explain failures in the author's terms."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from nestor.errors import NestorError
from nestor_engine.graphs.operators import HigherOrderOperator
from nestor_engine.graphs.tracing import traced_here, tracing
from nestor_engine.program.backwards import Differentiated, differentiate, marked
from nestor_engine.program.failures import Watch, explain
from nestor_engine.program.functions import Hooks, recording_functions
from nestor_engine.program.out_arguments import without_out_arguments
from nestor_engine.program.quiet import quiet
from nestor_engine.tensors.function_modes import reentrant
from nestor_engine.tensors.generators import OwnGenerators

BATCH = torch.export.Dim("batch")
Sizes = list[dict[int, Any] | None]  # for each leaf of a tree: dimension → torch.export.Dim, if it varies


@dataclass(frozen=True)
class Traced:
    """One function's graph, with the trees of its arguments and results.

    Attributes:
        inputs: the arguments' tree, flattened: its form, and a placeholder or a constant for each leaf.
        constants: placeholder → a tensor that the function reads, but that is not among its arguments.
        functions: what the nodes of custom Functions and hooks stand for, by the key that is their first argument.
    """

    name: str
    graph: fx.Graph
    module: nn.Module
    inputs: tuple[pytree.TreeSpec, list[Any]]
    outputs: tuple[pytree.TreeSpec, list[Any]]
    constants: dict[fx.Node, torch.Tensor]
    functions: dict[str, Differentiated]

    def output_sizes(self) -> Sizes:
        """For each leaf of the results, the dimensions that vary with the batch."""
        batch = {
            str(size)
            for node in self.graph.find_nodes(op="placeholder")
            for size in getattr(node.meta["val"], "shape", ())
            if isinstance(size, torch.SymInt)
        }

        def sizes(leaf: Any) -> Any:
            shape: Sequence[Any] = getattr(leaf.meta["val"], "shape", ()) if isinstance(leaf, fx.Node) else ()
            varying = {dim: size for dim, size in enumerate(shape) if isinstance(size, torch.SymInt)}
            # A multiple of the batch size, as after x.view(-1, classes), has no name of its own.
            return {d: BATCH if str(s) in batch else torch.export.Dim.DYNAMIC for d, s in varying.items()} or None

        return [sizes(leaf) for leaf in self.outputs[1]]


class _Flat:
    """A function of leaves that returns leaves: torch.export would hold objects to rules of its own.

    Attributes:
        returned: the form of the results, after a call.
    """

    def __init__(self, function: Callable[..., Any], form: pytree.TreeSpec) -> None:
        self._function, self._form = function, form
        self.returned: pytree.TreeSpec | None = None

    def __call__(self, leaves: list[Any]) -> list[Any]:
        results, self.returned = pytree.tree_flatten(self._function(*pytree.tree_unflatten(leaves, self._form)))
        return results


class _Holder(nn.Module):
    """torch.export takes modules only."""

    def __init__(self, function: Callable[[list[Any]], list[Any]]) -> None:
        super().__init__()
        self._function = function

    def forward(self, leaves: list[Any]) -> list[Any]:
        traced_here()
        try:
            return self._function(leaves)
        except RuntimeError as error:
            # torch prints the graph to the standard error stream of the process when it sees this text.
            if "data-dependent" in str(error):
                raise _DataDependent from error
            raise


class _PassedChecks(TorchFunctionMode):
    """Answers the questions that torch's own Python code asks about values, which a graph cannot answer: all is well.

    torch.distributions raises an error unless its arguments are valid, and `gaussian_nll_loss` if a variance is below
    zero. In this process both are asked. A worker finds a loss that is not finite instead.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__bool__ and (answer := _passes(inspect.currentframe())) is not None:
            return answer
        if func is F.gaussian_nll_loss:
            with self:
                return reentrant(func)(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _passes(caller: FrameType | None) -> bool | None:
    """The answer with which the code that asks goes on; None if it is not of torch, or not known to check values."""
    while caller is not None and caller.f_code.co_name == "__torch_function__":  # of modes around it
        caller = caller.f_back
    if caller is None:
        return None
    code = caller.f_code
    if code is F.gaussian_nll_loss.__code__:
        return False
    return True if code.co_filename.startswith(_DISTRIBUTIONS) else None


_DISTRIBUTIONS = os.path.dirname(torch.distributions.__file__) + os.sep


class _DataDependent(Exception):
    """Stands for its `__cause__` on the way through torch's tracer."""


def trace(
    name: str, function: Callable[..., Any], arguments: tuple[Any, ...], sizes: tuple[Sizes | None, ...]
) -> Traced:
    """The graph of `function`, training-mode operators and all, differentiable as often as they are.

    Args:
        sizes: for each argument None, or the dimensions that vary for each of its leaves.

    Raises:
        NotExportable: naming the place and the remedy.
    """
    flat, spec = pytree.tree_flatten(arguments)
    dynamic: Sizes = []
    for argument, varying in zip(arguments, sizes, strict=True):
        dynamic += [None] * len(pytree.tree_leaves(argument)) if varying is None else varying
    called = _Flat(function, spec)
    watch = Watch()
    try:
        with (
            tracing(),
            quiet(),
            OwnGenerators(),
            recording_functions() as recorder,
            Hooks(recorder, name),
            watch,
            torch.enable_grad(),
            _PassedChecks(),
        ):
            exported = torch.export.export(_Holder(called), (flat,), dynamic_shapes=(dynamic,), strict=False)
    except _DataDependent as stand_in:
        error = stand_in.__cause__
        assert isinstance(error, RuntimeError)  # `_Holder` raises it from one
        raise explain(name, error, watch) from error
    except NestorError:
        raise
    except Exception as error:
        raise explain(name, error, watch) from error
    without_out_arguments(exported.graph_module)
    # Every function transforms all hyperparameters, also those that it does not read.
    exported.graph.eliminate_dead_code(is_impure_node=has_effects)
    constants: dict[fx.Node, torch.Tensor] = {}
    given: list[Any] = []
    specs = exported.graph_signature.input_specs
    for placeholder, described in zip(exported.graph.find_nodes(op="placeholder"), specs, strict=True):
        if described.kind is torch.export.graph_signature.InputKind.USER_INPUT:
            given.append(placeholder)
        else:
            held: dict[str, Any] = {**exported.state_dict, **exported.constants}
            constants[placeholder] = held[str(described.target)]
    given = [node if isinstance(leaf, torch.Tensor) else leaf for node, leaf in zip(given, flat, strict=True)]
    (returned,) = exported.graph.find_nodes(op="output")
    assert called.returned is not None  # it was called to be traced
    return Traced(
        name=name,
        graph=exported.graph,
        module=exported.graph_module,
        inputs=(spec, given),
        outputs=(called.returned, list(returned.args[0])),
        constants=constants,
        functions={key: differentiate(name, recorder.calls[key], trace) for key in marked(exported.graph_module)},
    )


def has_effects(node: fx.Node) -> bool:
    """Whether the node must stay although nothing reads its value: it writes, or draws random numbers."""
    # A region may write into a buffer and return nothing.
    return isinstance(node.target, HigherOrderOperator) or node.is_impure()
