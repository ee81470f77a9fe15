"""Load a program from untrusted bytes.

A program is one JSON document and one safetensors file. Both are limited in size and checked completely before a
tensor or a graph is created; nothing is unpickled, imported by name, or evaluated.
"""

from __future__ import annotations

import math
from typing import Any, cast

import safetensors.torch
import torch

from nestor.errors import ProgramNotFinite, ProgramRejected, shown
from nestor.program_format import (
    MAX_HEADER_BYTES,
    MAX_VALUES,
    TRAINED_GROUPS,
    Graph,
    ProgramDocument,
    Ref,
    TensorNames,
    leaves,
    parse_document,
    parse_json,
    tensor_names,
)
from nestor_engine.graphs.check import TENSOR, CheckedGraph, check_graph
from nestor_engine.graphs.operators import lookup
from nestor_engine.objective import Bilevel, ByPosition, Tensors
from nestor_engine.program.function import Function


def load(graphs: bytes, tensors: bytes) -> Bilevel:
    """The problem that `export` wrote.

    Raises:
        ProgramInvalid: the bytes do not follow the format; a server refuses them with the same message.
        ProgramRejected: it was written by another version of torch, calls an operator that is not allowed, or its
            tensors cannot be read.
    """
    names = tensor_names(_keys(tensors))
    document = parse_document(graphs, names)
    if document.torch != torch_version():
        raise ProgramRejected(
            reason=f"it was exported with torch {shown(document.torch)}, and torch {torch_version()} runs here; "
            f"operators differ between versions. Export it again with torch {torch_version()}, or start a worker "
            "with the other."
        )

    def checked(name: str, graph: Graph) -> CheckedGraph:
        found = check_graph(graph, lookup, where=name)
        _check_results(name, found)
        return found

    written = {name: checked(name, graph) for name, graph in document.graphs.items()}
    metrics = {name: checked(f"metric {shown(name)}", graph) for name, graph in document.metrics.items()}
    state = _read_tensors(tensors, names)
    # Solvers see one vector of parameters in the order of the problem, and safetensors sorts.
    for group, order in zip(("params", "buffers", "hparams"), document.graphs["forward"].inputs, strict=False):
        assert isinstance(order, dict)  # `parse_document` checks this
        state[group] = {name: state[group][name] for name in order}
    functions = {name: Function(graph, state["constants"]) for name, graph in written.items()}
    if "evaluate" in functions:  # format 1
        evaluation: dict[str, Any] = {"evaluate": functions["evaluate"]}
    else:
        measures = {name: Function(graph, state["constants"]) for name, graph in metrics.items()}
        evaluation = {"predict": functions["predict"], "val_loss": functions["val_loss"], "metrics": measures}
    return Bilevel(
        params=state["params"],
        buffers=state["buffers"],
        hparams=state["hparams"],
        transforms={name: entry.transform for name, entry in document.hparams.items()},
        bounds=_bounds(document),
        priors={name: entry.prior for name, entry in document.hparams.items() if entry.prior},
        by_position=_by_position(document),
        entry_names={name: entry.entry_names for name, entry in document.hparams.items()},
        prepare=functions["prepare"],
        forward=functions["forward"],
        criterion=functions["criterion"],
        penalty=functions["penalty"],
        **evaluation,
    )


def torch_version() -> str:
    """Major and minor version of torch. A program runs only with the version that exported it."""
    return ".".join(torch.__version__.split(".")[:2])


def _keys(tensors: bytes) -> list[str]:
    """The keys of a safetensors file, from its first bytes only."""
    size = int.from_bytes(tensors[:8], "little")
    if len(tensors) < 8 or size > min(len(tensors) - 8, MAX_HEADER_BYTES):
        raise ProgramRejected(reason="its tensors are not a complete safetensors file.")
    header = parse_json(
        tensors[8 : 8 + size], what="the header of its tensors", max_bytes=MAX_HEADER_BYTES, max_values=MAX_VALUES
    )
    if not isinstance(header, dict):
        raise ProgramRejected(reason="its tensors have no header.")
    return [key for key in header if key != "__metadata__"]


def _read_tensors(tensors: bytes, names: TensorNames) -> dict[str, Tensors]:
    try:
        loaded = safetensors.torch.load(tensors)
    except Exception as error:  # the library does not document its exceptions
        raise ProgramRejected(reason=f"its tensors cannot be read ({shown(str(error))}).") from error
    for key, tensor in loaded.items():
        trained = key.partition(".")[0] in TRAINED_GROUPS
        if tensor.is_floating_point() and not (tensor.isfinite().all() if trained else not tensor.isnan().any()):
            raise ProgramNotFinite(tensor=key)
        if trained and not tensor.is_floating_point():
            raise ProgramRejected(reason=f"{key} is {tensor.dtype}; trained and tuned tensors must be floating-point.")
    return {group: {name: loaded[f"{group}.{name}"] for name in sorted(found)} for group, found in names.items()}


def _bounds(document: ProgramDocument) -> dict[str, tuple[float, float]]:
    """(low, high) of the hyperparameters that have bounds."""
    bounds = {name: (entry.low, entry.high) for name, entry in document.hparams.items()}
    return {name: ends for name, ends in bounds.items() if ends != (-math.inf, math.inf)}


def _by_position(document: ProgramDocument) -> dict[str, ByPosition] | None:
    if document.metric_names is None:
        return None  # format 1 does not say it
    return {n: cast("ByPosition", entry.by_position) for n, entry in document.hparams.items() if entry.by_position}


def _check_results(function: str, checked: CheckedGraph) -> None:
    """Check that a function returns tensors: its form is known, but a value may be a size."""
    if not all(checked.kinds[leaf.index] == TENSOR for leaf in _values(checked.graph)):
        raise ProgramRejected(reason=f"{function}: its output holds a number where a tensor must be.")


def _values(graph: Graph) -> list[Ref]:
    return [leaf for leaf in leaves(graph.outputs) if isinstance(leaf, Ref)]
