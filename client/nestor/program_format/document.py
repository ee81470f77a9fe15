"""The document of a program: its functions, and how its hyperparameters are transformed and bounded."""

from __future__ import annotations

import json as json_module
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nestor.errors import ProgramFormatUnknown, shown
from nestor.program_format.entry_names import UNNAMED, EntryNames, entry_names_json, parse_entry_names
from nestor.program_format.graphs import Graph, graph_json, parse_graph
from nestor.program_format.limits import (
    BY_POSITION,
    FORMAT,
    FUNCTIONS,
    FUNCTIONS_OF_FORMAT_1,
    MAX_DOCUMENT_BYTES,
    MAX_VALUES,
    TENSOR_GROUPS,
    TRANSFORMS,
    valid_name,
)
from nestor.program_format.untrusted_json import Json, fields, parse_json, refused
from nestor.program_format.values import Budget, GraphValue, Ref

TensorNames = Mapping[str, frozenset[str]]  # group → the names of its tensors


@dataclass(frozen=True)
class HyperparameterSpec:
    """How one tensor of hyperparameters enters the training.

    Attributes:
        transform: one of `TRANSFORMS`.
        low, high: bounds of the raw tensor's entries; infinite on a side without a bound.
        prior: precision of the normal prior of the entries' deviations from their level; 0 for none.
        by_position: one of `BY_POSITION` if there is an entry for each training example, else None.
        entry_names: how its entries are called; a document of an earlier format has no names.
    """

    transform: str
    low: float
    high: float
    prior: float = 0.0
    by_position: str | None = None
    entry_names: EntryNames = UNNAMED


@dataclass(frozen=True)
class ProgramDocument:
    """A program without its tensors.

    Attributes:
        torch: major and minor version that it was exported with, as "2.13".
        graphs: one for each of `FUNCTIONS`; of a document of format 1, for each of `FUNCTIONS_OF_FORMAT_1`.
        metrics: by name.
    """

    torch: str
    hparams: dict[str, HyperparameterSpec]
    graphs: dict[str, Graph]
    metrics: dict[str, Graph] = field(default_factory=dict[str, Graph])

    @property
    def metric_names(self) -> list[str] | None:
        """None: a document of format 1, whose graphs do not name them."""
        return sorted(self.metrics) if set(FUNCTIONS) <= set(self.graphs) else None


def tensor_names(keys: Iterable[str]) -> TensorNames:
    """The names in each group, from the keys of the tensors' file.

    Raises:
        ProgramInvalid: a key is of no group, or its name is not a valid one.
    """
    names: dict[str, set[str]] = {group: set() for group in TENSOR_GROUPS}
    for key in keys:
        group, _, name = key.partition(".")
        if group not in names or not valid_name(name):
            raise refused(f"its tensor {shown(key)} is not named group.name with a group of {', '.join(TENSOR_GROUPS)}")
        names[group].add(name)
    return {group: frozenset(found) for group, found in names.items()}


def parse_document(data: bytes, names: TensorNames) -> ProgramDocument:
    """The document that `write_document` wrote for tensors of these names.

    Raises:
        ProgramInvalid: it does not follow the format, or does not fit the tensors.
    """
    json = parse_json(data, what="its document", max_bytes=MAX_DOCUMENT_BYTES, max_values=MAX_VALUES)
    # The version first: another one may have other fields.
    version = json.get("format", FORMAT) if isinstance(json, dict) else FORMAT
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise ProgramFormatUnknown(version=shown(version), known=FORMAT)
    parts = ("format", "torch", "hparams", "graphs") + (("metrics",) if version > 1 else ())
    entries = fields(json, parts, "its document")
    torch = entries["torch"]
    if not isinstance(torch, str) or not re.fullmatch(r"[0-9]{1,4}\.[0-9]{1,4}", torch):
        raise refused(f"its torch version is {shown(torch)}, not one like '2.13'")
    hparams = _hyperparameters(entries["hparams"], names["hparams"], version)
    known = FUNCTIONS if version > 1 else FUNCTIONS_OF_FORMAT_1
    functions, measures = fields(entries["graphs"], known, "its graphs"), entries.get("metrics", {})
    if not isinstance(measures, dict) or not all(valid_name(name) and name != "loss" for name in measures):
        raise refused(f"its metrics must be an object of graphs by name, not {shown(measures)}")
    budget = Budget()

    def parsed(json: Json, where: str) -> Graph:
        return parse_graph(json, constants=names["constants"], budget=budget, where=where)

    graphs = {name: parsed(functions[name], name) for name in known}
    metrics = {name: parsed(graph, f"metric {shown(name)}") for name, graph in measures.items()}
    _check_signatures(graphs, metrics, names)
    return ProgramDocument(torch, hparams, graphs, metrics)


def write_document(document: ProgramDocument) -> bytes:
    """`document` as bytes: sorted and without spaces, because they are named by their digest."""
    hparams: dict[str, Json] = {
        name: {
            "transform": entry.transform,
            "bounds": [_finite(entry.low), _finite(entry.high)],
            "prior": entry.prior,
            "by_position": entry.by_position,
            **entry_names_json(entry.entry_names),
        }
        for name, entry in document.hparams.items()
    }
    json = {
        "format": FORMAT,
        "torch": document.torch,
        "hparams": hparams,
        "graphs": {name: graph_json(graph) for name, graph in document.graphs.items()},
        "metrics": {name: graph_json(graph) for name, graph in document.metrics.items()},
    }
    return json_module.dumps(json, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _finite(bound: float) -> float | None:
    """An open end is null: JSON has no infinity."""
    return bound if math.isfinite(bound) else None


def _hyperparameters(json: Json, names: frozenset[str], version: int) -> dict[str, HyperparameterSpec]:
    if not isinstance(json, dict):
        raise refused(f"its hyperparameters must be an object, not {shown(json)}")
    if not json:
        raise refused("it has no hyperparameters")
    if odd := sorted(json.keys() ^ names):
        raise refused(f"its document and its tensors name different hyperparameters, such as {shown(odd[0])}")
    return {name: _hyperparameter(entry, f"the hyperparameter {shown(name)}", version) for name, entry in json.items()}


def _hyperparameter(json: Json, where: str, version: int) -> HyperparameterSpec:
    since = {"transform": 1, "bounds": 1, "by_position": 2, "of": 3, "axes": 3, "prior": 4}
    entries = fields(json, [name for name, first in since.items() if version >= first], where)
    entry_names = parse_entry_names(entries.get("of"), entries.get("axes"), where)
    transform, bounds, by_position = entries["transform"], entries["bounds"], entries.get("by_position")
    if by_position is not None and by_position not in BY_POSITION:
        raise refused(f"{where} is {shown(by_position)} by position, which is not one of {', '.join(BY_POSITION)}")
    prior = entries.get("prior", 0.0)
    if not isinstance(prior, int | float) or isinstance(prior, bool) or prior < 0:
        raise refused(f"{where} has the prior {shown(prior)}, which is not a number of at least 0")
    if not isinstance(transform, str) or transform not in TRANSFORMS:
        raise refused(f"{where} has the transform {shown(transform)}, which is not one of {', '.join(TRANSFORMS)}")
    match bounds:
        case [None | int() | float() as low, None | int() | float() as high] if not (
            isinstance(low, bool) or isinstance(high, bool)  # to Python, a truth value is a number
        ):
            lowest = -math.inf if low is None else float(low)
            highest = math.inf if high is None else float(high)
            if lowest <= highest:
                return HyperparameterSpec(transform, lowest, highest, float(prior), by_position, entry_names)
        case _:
            pass
    raise refused(f"{where} has the bounds {shown(bounds)}, which are not two numbers (or null) in order")


def _check_signatures(graphs: dict[str, Graph], metrics: dict[str, Graph], names: TensorNames) -> None:
    """Hold the functions to their arguments and results.

        prepare(hparams, batch) → columns                       forward(params, buffers, hparams, columns)
        criterion(outputs, hparams, columns) → number                   → (outputs, buffers)
        penalty(params, hparams) → number                       predict(params, buffers, hparams, batch) → outputs
        val_loss(outputs, hparams, batch) → number, or (sum, weight); each metric likewise

    `prepare` returns what the training reads of a batch. In format 1, evaluate(params, buffers, hparams, batch) returns
    numbers by name, one of which is "loss".
    """
    signatures = {
        "prepare": ("hparams", None),
        "forward": ("params", "buffers", "hparams", None),
        "criterion": ("outputs", "hparams", None),
        "penalty": ("params", "hparams"),
        "predict": ("params", "buffers", "hparams", None),
        "val_loss": ("outputs", "hparams", None),
        "evaluate": ("params", "buffers", "hparams", None),
    }
    measures = {f"metric {shown(name)}": graph for name, graph in metrics.items()}
    for name, graph in (graphs | measures).items():
        trees, signature = graph.inputs, signatures.get(name, signatures["val_loss"])
        _check(len(trees) == len(signature), name, f"it must have {len(signature)} inputs, not {len(trees)}")
        for position, (group, tree) in enumerate(zip(signature, trees, strict=True)):
            if group == "outputs":
                continue
            columns = _columns(tree)
            _check(columns is not None, name, f"its input {position} must be a dict of values")
            _check(group is None or columns == names[group], name, f"its input {position} must name the {group}")

    prepared = _columns(graphs["prepare"].outputs)
    _check(prepared is not None, "prepare", "its output must be a dict of values")
    for name in ("forward", "criterion"):
        read = _columns(graphs[name].inputs[-1]) or frozenset()
        _check(read <= (prepared or frozenset()), name, "it must read no column that `prepare` does not return")
    match graphs["forward"].outputs:
        case (outputs, buffers) if _columns(buffers) == names["buffers"]:
            _check_reader("criterion", graphs["criterion"], "forward", outputs)
        case _:
            _check(False, "forward", "its output must be a pair of outputs and buffers")
    for name in ("criterion", "penalty"):
        _check(isinstance(graphs[name].outputs, Ref), name, "its output must be one value")
    if "evaluate" in graphs:
        found = _columns(graphs["evaluate"].outputs)
        _check(found is not None and "loss" in found, "evaluate", "its output must be a dict of values with a loss")
        return
    for name, graph in ({"val_loss": graphs["val_loss"]} | measures).items():
        _check_reader(name, graph, "predict", graphs["predict"].outputs)
        match graph.outputs:
            case Ref() | (Ref(), Ref()):
                pass
            case _:
                _check(False, name, "its output must be one value, or a pair of a sum and a weight")


def _check_reader(name: str, graph: Graph, of: str, outputs: GraphValue) -> None:
    fits = _outline(outputs) == _outline(graph.inputs[0])
    _check(fits, name, f"its input 0 must have the form of the outputs of `{of}`")


def _check(holds: bool, function: str, sentence: str) -> None:
    if not holds:
        raise refused(f"{function}: {sentence}")


def _columns(tree: GraphValue) -> frozenset[str] | None:
    """The names of a flat dict of values; None for any other tree."""
    if isinstance(tree, dict) and all(isinstance(leaf, Ref) for leaf in tree.values()):
        return frozenset(tree)
    return None


def _outline(tree: GraphValue) -> object:
    """The tree with its values made alike, to compare forms."""
    if isinstance(tree, dict):
        return {key: _outline(inner) for key, inner in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree), [_outline(inner) for inner in tree]
    return Ref if isinstance(tree, Ref) else (type(tree), tree)
