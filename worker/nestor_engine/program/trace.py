"""Trace one function of a problem with torch.export, and explain failures in the author's terms."""

# pyright: reportUnknownMemberType=false
# (torch does not type fork_rng)

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from nestor.errors import NotExportable
from nestor_engine.autodiff.kernels import twice_differentiable
from nestor_engine.graphs.operators import HigherOrderOperator
from nestor_engine.program.backwards import Differentiated, differentiate, marked
from nestor_engine.program.failures import Watch, explain
from nestor_engine.program.functions import Hooks, recording_functions

BATCH = torch.export.Dim("batch")


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

    def output_sizes(self) -> Any:
        """For each result, the dimensions that vary with the batch; an entry of `sizes` of `trace`."""
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

        spec, leaves = self.outputs
        return pytree.tree_unflatten([sizes(leaf) for leaf in leaves], spec)


class _Holder(nn.Module):
    """torch.export takes modules only."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._function = function

    def forward(self, arguments: tuple[Any, ...]) -> Any:
        return self._function(*arguments)


def trace(name: str, function: Callable[..., Any], arguments: tuple[Any, ...], sizes: tuple[Any, ...]) -> Traced:
    """The graph of `function`, training-mode operators and all, differentiable as often as they are.

    Args:
        sizes: for each argument None, or a tree of its structure with {dimension: torch.export.Dim}.

    Raises:
        NotExportable: naming the place and the remedy.
    """
    dynamic = tuple(
        pytree.tree_map(_nothing, argument) if size is None else size
        for argument, size in zip(arguments, sizes, strict=True)
    )
    watch = Watch()
    try:
        with (
            quiet(),
            recording_functions() as recorder,
            Hooks(recorder, name),
            watch,
            torch.enable_grad(),
            torch.random.fork_rng(devices=[]),
        ):
            exported = torch.export.export(_Holder(function), (arguments,), dynamic_shapes=(dynamic,), strict=False)
    except NotExportable:
        raise
    except Exception as error:
        raise explain(name, error, watch) from error
    # Every function transforms all hyperparameters, also those that it does not read.
    exported.graph.eliminate_dead_code(is_impure_node=_has_effects)
    flat, spec = pytree.tree_flatten(arguments)
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
    results = exported.call_spec.out_spec
    assert results is not None  # only a graph that was never called has none
    return Traced(
        name=name,
        graph=exported.graph,
        module=exported.graph_module,
        inputs=(spec, given),
        outputs=(results, list(returned.args[0])),
        constants=constants,
        functions={key: differentiate(name, recorder.calls[key], trace) for key in marked(exported.graph_module)},
    )


def _nothing(leaf: Any) -> None:
    """No dimension of `leaf` varies."""


def _has_effects(node: fx.Node) -> bool:
    # A region may write into a buffer and return nothing.
    return isinstance(node.target, HigherOrderOperator) or node.is_impure()


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Use kernels that can be traced and differentiated twice, and suppress the tracer's own output."""
    logger = logging.getLogger("torch")
    level = logger.level
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            with twice_differentiable(), torch.backends.mkldnn.flags(enabled=False):
                yield
        finally:
            logger.setLevel(level)
