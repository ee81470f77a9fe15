"""From bytes that anyone may have written to a problem that can be trained.

A program is one JSON document and one safetensors file. Both are bounded and checked whole before a
tensor or a graph is made; nothing is unpickled, imported by name, or evaluated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NoReturn

import safetensors.torch
import torch

from nestor_engine.errors import ProgramRejected
from nestor_engine.graph_json import Budget, Json, Ref, Value, brief, leaves, valid_name
from nestor_engine.hparams import TRANSFORMS
from nestor_engine.objective import Bilevel, Tensors
from nestor_engine.program.build import Function
from nestor_engine.program.graph import TENSOR, Graph, fields, read

FORMAT = 1
FUNCTIONS = ("prepare", "forward", "criterion", "penalty", "evaluate")
GROUPS = ("params", "buffers", "hparams", "constants")

MAX_GRAPHS_BYTES = 16 * 2**20
MAX_NODES = 100_000
MAX_VALUES = 2_000_000
MAX_HEADER_BYTES = 16 * 2**20


def load(graphs: bytes, tensors: bytes) -> Bilevel:
    """The problem that `export` wrote.

    Raises:
        ProgramRejected: it was written by another version of torch, or is not a well-formed program.
    """
    document = _parse(graphs)
    fields(document, {"format", "torch", "hparams", "graphs"}, "the document")
    _check_version(document)
    fields(document["graphs"], set(FUNCTIONS), "graphs")
    names = _tensor_names(tensors)
    budget = Budget(nodes=MAX_NODES, values=MAX_VALUES)
    constants = frozenset(names["constants"])
    checked = {
        name: read(document["graphs"][name], constants=constants, budget=budget, where=name) for name in FUNCTIONS
    }
    transforms, bounds = _hyperparameters(document["hparams"], names["hparams"])
    _check_interfaces(checked, names)
    state = _read_tensors(tensors, names)
    # Parameters are one vector to a solver, in the order that the problem has them; safetensors sorts.
    for group, tree in zip(("params", "buffers", "hparams"), checked["forward"].inputs, strict=False):
        state[group] = {name: state[group][name] for name in tree}
    functions = {name: Function(graph, state["constants"]) for name, graph in checked.items()}
    return Bilevel(
        params=state["params"],
        buffers=state["buffers"],
        hparams=state["hparams"],
        transforms=transforms,
        bounds=bounds,
        **functions,
    )


def _parse(graphs: bytes) -> Json:
    if len(graphs) > MAX_GRAPHS_BYTES:
        raise ProgramRejected(reason=f"its graphs take {len(graphs):,} bytes; the limit is {MAX_GRAPHS_BYTES:,}.")
    # A megabyte of brackets becomes a hundred megabytes of lists, so they are counted while still bytes.
    if graphs.count(b"[") + graphs.count(b"{") + graphs.count(b",") > MAX_VALUES:
        raise ProgramRejected(reason="it is larger than any model that we know of; simplify the model.")
    try:
        return json.loads(
            graphs.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_no_constant,
        )
    except (ValueError, RecursionError) as error:
        raise ProgramRejected(reason=f"its graphs are not JSON as we write it ({brief(str(error))}).") from error


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key occurs twice")
    return made


def _integer(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= (number := int(text)) < 2**63:
        raise ValueError("an integer has more than 64 bits")
    return number


def _float(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError("a number is not finite")
    return number


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _check_version(document: Json) -> None:
    if document["format"] != FORMAT or type(document["format"]) is not int:
        raise ProgramRejected(
            reason=f"its format is {brief(document['format'])}, this is format {FORMAT}. Use one version of "
            "Nestor on both sides."
        )
    if document["torch"] != torch_version():
        raise ProgramRejected(
            reason=f"it was exported with torch {brief(document['torch'])}, and torch {torch_version()} runs here; "
            f"operators differ between versions. Export it again with torch {torch_version()}, or start a worker "
            "with the other."
        )


def torch_version() -> str:
    """Major and minor: what a program is bound to."""
    return ".".join(torch.__version__.split(".")[:2])


def _tensor_names(tensors: bytes) -> dict[str, dict[str, Json]]:
    """Group → name → the header's entry, from the file's first bytes only."""
    size = int.from_bytes(tensors[:8], "little")
    if len(tensors) < 8 or size > min(len(tensors) - 8, MAX_HEADER_BYTES):
        raise ProgramRejected(reason="its tensors are not a safetensors file, or not all of it.")
    header = _parse(tensors[8 : 8 + size])
    if not isinstance(header, dict):
        raise ProgramRejected(reason="its tensors have no header.")
    names: dict[str, dict[str, Json]] = {group: {} for group in GROUPS}
    for key, entry in header.items():
        group, _, name = key.partition(".")
        if group not in names or not valid_name(name):
            raise ProgramRejected(reason=f"its tensors hold {brief(key)}, which is no part of a program.")
        names[group][name] = entry
    return names


def _read_tensors(tensors: bytes, names: dict[str, dict[str, Json]]) -> dict[str, Tensors]:
    try:
        loaded = safetensors.torch.load(tensors)
    except Exception as error:  # the library documents no list of what it raises on bad input
        raise ProgramRejected(reason=f"its tensors cannot be read ({brief(str(error))}).") from error
    for key, tensor in loaded.items():
        # Masks are made of infinities, so buffers and constants may hold them; what is trained may not.
        state = key.startswith(("params.", "hparams."))
        if tensor.is_floating_point() and not (tensor.isfinite().all() if state else not tensor.isnan().any()):
            raise ProgramRejected(reason=f"{key} holds numbers that are not finite.")
        if state and not tensor.is_floating_point():
            raise ProgramRejected(reason=f"{key} is {tensor.dtype}; what is trained or tuned is floating-point.")
    return {group: {name: loaded[f"{group}.{name}"] for name in names[group]} for group in GROUPS}


def _hyperparameters(hparams: Json, names: dict[str, Json]) -> tuple[dict[str, str], dict[str, tuple[float, float]]]:
    if not isinstance(hparams, dict) or set(hparams) != set(names):
        raise ProgramRejected(reason="its list of hyperparameters is not that of its tensors.")
    for name, entry in hparams.items():
        fields(entry, {"transform", "bounds"}, f"hyperparameter {brief(name)}")
        if not isinstance(entry["transform"], str) or entry["transform"] not in TRANSFORMS:
            raise ProgramRejected(reason=f"there is no transform {brief(entry['transform'])}.")
        if not _is_interval(entry["bounds"]):
            raise ProgramRejected(reason=f"the bounds of {brief(name)} are not two numbers in order.")
    bounds = {
        name: (-math.inf if low is None else float(low), math.inf if high is None else float(high))
        for name, (low, high) in ((name, entry["bounds"]) for name, entry in hparams.items())
        if low is not None or high is not None
    }
    return {name: entry["transform"] for name, entry in hparams.items()}, bounds


def _is_interval(bounds: Json) -> bool:
    if not isinstance(bounds, list) or len(bounds) != 2:
        return False
    # A truth value is a number to Python.
    if not all(end is None or (isinstance(end, int | float) and not isinstance(end, bool)) for end in bounds):
        return False
    return None in bounds or bounds[0] <= bounds[1]


def _check_interfaces(graphs: dict[str, Graph], names: dict[str, dict[str, Json]]) -> None:
    """Hold the five functions to the signatures of `Bilevel`."""

    def check(holds: bool, what: str) -> None:
        if not holds:
            raise ProgramRejected(reason=f"{what} does not have the form that it must have.")

    def state(*groups: str) -> tuple[Callable[[Value], bool], ...]:
        return tuple(lambda tree, g=group: _is_columns(tree) and set(tree) == set(names[g]) for group in groups)

    params, buffers, hparams = state("params", "buffers", "hparams")
    anything: Callable[[Value], bool] = lambda tree: True
    signatures = {
        "prepare": (hparams, _is_columns),
        "forward": (params, buffers, hparams, _is_columns),
        "criterion": (anything, hparams, _is_columns),
        "penalty": (params, hparams),
        "evaluate": (params, buffers, hparams, _is_columns),
    }
    for name, signature in signatures.items():
        trees = graphs[name].inputs
        fits = len(trees) == len(signature) and all(f(tree) for f, tree in zip(signature, trees, strict=True))
        check(fits, f"{name}'s input")

    def tensor(name: str, leaf: Value) -> bool:
        return isinstance(leaf, Ref) and graphs[name].kinds[leaf.index] == TENSOR

    prepared, evaluated = graphs["prepare"].outputs, graphs["evaluate"].outputs
    check(_is_columns(prepared) and all(tensor("prepare", leaf) for leaf in prepared.values()), "prepare's output")
    for name in ("forward", "criterion"):
        check(set(graphs[name].inputs[-1]) <= set(prepared), f"{name}'s input")
    result = graphs["forward"].outputs
    check(isinstance(result, tuple) and len(result) == 2 and buffers(result[1]), "forward's output")
    check(all(tensor("forward", leaf) for leaf in leaves(result) if isinstance(leaf, Ref)), "forward's output")
    check(_outline(result[0]) == _outline(graphs["criterion"].inputs[0]), "criterion's input")
    for name in ("criterion", "penalty"):
        check(tensor(name, graphs[name].outputs), f"{name}'s output")
    check(_is_columns(evaluated) and "loss" in evaluated, "evaluate's output")
    check(all(tensor("evaluate", leaf) for leaf in evaluated.values()), "evaluate's output")


def _is_columns(tree: Value) -> bool:
    return isinstance(tree, dict) and all(isinstance(leaf, Ref) for leaf in tree.values())


def _outline(tree: Value) -> Any:
    """The tree with its leaves made alike, to compare forms."""
    if isinstance(tree, dict):
        return {key: _outline(inner) for key, inner in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_outline(inner) for inner in tree)
    return Ref if isinstance(tree, Ref) else tree
