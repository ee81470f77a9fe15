"""A program's nodes are arithmetic on what exists: everything else must be refused before torch builds anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from nestor_engine.graphs import operators as allowed
from nestor_engine.program import load
from tests.engine.program.conftest import Document, document, rejected, tensors


def node(op: Any, *args: Any, **kwargs: Any) -> Document:
    return {"op": op, "args": list(args), "kwargs": kwargs}


X = {"ref": 0}


def with_node(made: Document, function: str = "forward") -> Document:
    """The valid program with one more node in front, whose result is unused."""
    changed = document()
    graph = changed["graphs"][function]
    first = len(json.dumps(graph["inputs"]).split('"ref"')) - 1 + len(graph["constants"])
    graph["nodes"] = [made, *_shift(graph["nodes"], first)]
    graph["outputs"] = _shift(graph["outputs"], first)
    return changed


def _shift(value: Any, first: int) -> Any:
    if isinstance(value, list):
        return [_shift(item, first) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"ref"}:
        return {"ref": value["ref"] + (value["ref"] >= first)}
    return {key: inner if key in ("graph", "backward") else _shift(inner, first) for key, inner in value.items()}


def inner(inputs: list[int], outputs: Any, *nodes: Document) -> Document:
    """A region's graph."""
    return {"inputs": [{"ref": i} for i in inputs], "constants": [], "nodes": list(nodes), "outputs": outputs}


def function(**changes: Any) -> Document:
    """The identity with its derivative as a region of its own, except for the changes."""
    made = {
        "graph": inner([0], {"tuple": [{"ref": 0}]}),
        "backward": inner([0, 1, 2], {"tuple": [{"ref": 2}]}),
        "args": [X],
        "results": 1,
        "without": [],
    } | changes
    options = [made.pop("results"), {"tuple": made.pop("without")}]
    return {"region": "function", "options": options, **made}


def test_a_function_with_its_backward_is_valid():
    load(json.dumps(with_node(function())).encode(), tensors())


def test_the_document_that_is_attacked_here_is_valid():
    load(json.dumps(with_node(node("aten.add.Tensor", {"ref": 0}, 1))).encode(), tensors())


@pytest.mark.usefixtures("nothing_is_built")
@pytest.mark.parametrize(
    "made",
    [
        node("aten.from_file.default", "/etc/passwd", False, 10),
        node("aten.set_.source_Tensor", X, X),
        node("aten.resize_.default", X, [10]),
        node("aten.as_strided.default", X, [10], [1], 0),
        node("aten.empty.memory_format", [10]),
        node("aten.add.out", X, X, out=X),
        node("aten._print.default", "x"),
        node("aten.save.default", X, "/tmp/x"),
        node("aten.manual_seed.default", 0),
        node("aten.item.default", X),
        node("os.system", "true"),
        node("posix.system", "true"),
        node("operator.attrgetter", "__class__"),
        node("operator.methodcaller", "system"),
        node("operator.pow", 9, 9),
        node("builtins.eval", "1"),
        node("torch.load", "x"),
        node("prims.add.default", X, X),
        node("aten.__class__.__init__", X),
        node("aten.add.__init__", X),
        node("aten.add.__call__", X),
        node("aten.add.Tensor.__globals__", X),
        node("aten.add.name", X),
        node("aten.add.Tensor\n", X, X),
        node("aten.add.Tensor'); import os", X, X),
        node("aten.ádd.Tensor", X, X),
        node("", X),
        node(["aten.add.Tensor"], X, X),
        node("aten.add.Tensor", X),
        node("aten.add.Tensor", X, X, X, X),
        node("aten.add.Tensor", X, X, beta=1),
        node("aten.add.Tensor", X, X, self=X),
        node("aten.uniform_.default", X, **{"from": 0.0}),
        node("aten.add.Tensor", X, "s0 + __import__('os').system('true')"),
        node("aten.add.Tensor", X, {"expr_str": "1"}),
        node("aten.add.Tensor", X, {"ref": 10_000}),
        node("aten.add.Tensor", X, {"ref": -1}),
        node("aten.add.Tensor", X, {"ref": True}),
        node("aten.add.Tensor", X, {"ref": "0"}),
        node("aten.add.Tensor", X, {"ref": 0, "tuple": []}),
        node("aten.view.default", X, ["-1"]),
        node("aten.view.default", X, [1.5]),
        node("aten.view.default", X, X),
        node("aten.sum.dim_IntList", X, {"dict": [["a", 1]]}),
        node("aten.to.dtype", X, {"dtype": "Tensor"}),
        node("aten.to.dtype", X, {"dtype": "__doc__"}),
        node("aten.to.device", X, {"device": "cuda:0"}, {"dtype": "float32"}),
        node("aten.zeros.default", [1], device="cpu"),
        node("aten.gelu.default", X, approximate="x'+__import__('os').name+'"),
        node("aten.einsum.default", "i->i; import os", [X]),
        node("aten.einsum.default", "i->i'", [X]),
        node("operator.getitem", X, 0),
        node("operator.getitem", {"ref": 0}, "__class__"),
        node("operator.add", X, 1),
        node("operator.mul", [1], 2),
        node("aten.rand.generator", [1], generator=X),
        {"region": "vmap", "options": [True], "graph": {}, "args": []},
        {"region": "grad", "options": ["True"], "graph": {}, "args": []},
        {"region": "grad", "options": [True], "graph": {}, "args": []},
        function(results=0),
        function(results=2),
        function(results=True),
        function(results="1"),
        function(without=[1]),
        function(without=[True]),
        function(without=None),
        function(args=[X, X]),
        function(args=[1]),
        function(backward=None),
        function(backward=inner([0], {"tuple": [{"ref": 0}]})),
        function(backward=inner([0, 1, 2], {"tuple": []})),
        function(backward=inner([0, 1, 2], {"tuple": [1]})),
        function(backward=inner([0, 1, 2], {"ref": 0})),
        function(backward=inner([0, 1, 2], {"tuple": [{"ref": 3}]}, node("aten.sym_size.int", X, 0))),
        function(backward=inner([0, 1, 2], {"tuple": [{"ref": 0}]}, node("os.system", "true"))),
        function(graph=inner([0], {"tuple": [{"ref": 1}]}, node("aten.sym_size.int", X, 0))),
        {name: value for name, value in function().items() if name != "backward"},
        function() | {"region": "grad"},
        {"op": "aten.add.Tensor", "args": [X, X]},
        {"op": "aten.add.Tensor", "args": [X, X], "kwargs": {}, "name": "x"},
        {"op": "aten.add.Tensor", "args": "xy", "kwargs": {}},
        "aten.add.Tensor",
        None,
    ],
    ids=lambda made: json.dumps(made)[:70],
)
def test_no_node_does_anything_but_arithmetic_on_what_exists(made: Any):
    assert rejected(with_node(made)).startswith("The program was refused: ")


def nested(levels: int, inner: Any, wrap: Callable[[Any], Any]) -> Any:
    for _ in range(levels):
        inner = wrap(inner)
    return inner


def region(graph: Document) -> Document:
    return {"region": "grad", "options": [False], "graph": graph, "args": []}


EMPTY = {"inputs": [], "constants": [], "nodes": [], "outputs": {"tuple": []}}


@pytest.mark.usefixtures("nothing_is_built")
@pytest.mark.parametrize(
    "made",
    [
        nested(40, EMPTY, lambda graph: EMPTY | {"nodes": [region(graph)]})["nodes"][0],
        node("aten.view.default", X, nested(40, 1, lambda inner: [inner])),
        node("aten.view.default", X, [[]]),
    ],
    ids=["regions", "lists", "list in a list"],
)
def test_nesting_is_bounded(made: Any):
    rejected(with_node(made))


def test_every_allowed_operator_exists_and_writes_to_no_memory_but_its_own():
    assert not [name for name in allowed.ALLOWED if not hasattr(torch.ops.aten, name)]
    for name in allowed.ALLOWED:
        for overload in getattr(torch.ops.aten, name).overloads():
            operator = allowed.lookup(f"aten.{name}.{overload}")
            if operator is None:
                continue
            types = {argument.type for argument in operator.arguments}
            assert not types & {"Storage", "Stream", "Any", "AnyEnumType"}, operator.name
            written = [a for a in operator.target._schema.arguments if a.alias_info and a.alias_info.is_write]
            assert not written or name.endswith("_"), operator.name
