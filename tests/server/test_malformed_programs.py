"""A malformed document is refused by the server where it is uploaded, and by the engine, with the same sentence."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from safetensors.numpy import save

from nestor.errors import ProgramInvalid
from nestor.program_format import MAX_DOCUMENT_BYTES, MAX_VALUES
from nestor_engine.program import load
from nestor_engine.program.load import torch_version
from tests.server.conftest import problem
from tests.server.test_blobs import put
from tests.support.programs import TENSORS, Document, call, columns, document, graph, l2, ref

TENSORS_FILE = save(TENSORS)
FORWARD = ("graphs", "forward")
NODES = (*FORWARD, "nodes")
REGION = (*NODES, 2)


def changed(*path: str | int, to: Any) -> Document:
    """The valid document with another value at `path`."""
    made = document(torch_version())
    target: Any = made
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = copy.deepcopy(to)
    return made


def without(*path: str | int) -> Document:
    """The valid document without what lies at `path`."""
    made = document(torch_version())
    target: Any = made
    for key in path[:-1]:
        target = target[key]
    del target[path[-1]]
    return made


def nested(levels: int, inner: Any, wrap: Callable[[Any], Any]) -> Any:
    for _ in range(levels):
        inner = wrap(inner)
    return inner


def region_of(inner: Document) -> Document:
    node = {"region": "grad", "options": [True], "graph": inner, "args": [ref(0)]}
    return graph([ref(0)], [node], {"tuple": [ref(0)]})


def replaced(old: str, new: str) -> bytes:
    """The valid document with other text, which `json` would not write."""
    text = json.dumps(document(torch_version()))
    assert old in text
    return text.replace(old, new, 1).encode()


# Where a document has a value of one type, and values of others. A place that takes numbers takes any.
TYPED_PLACES: dict[tuple[str | int, ...], list[Any]] = {
    ("format",): [None, True, "1", 2.0, [], 0, 1, 2, 3, 5],
    ("torch",): [None, 2, [], "2", "2.13.0+cu; rm", "2.1³"],
    ("hparams",): [None, 1, "l2", [], {}],
    ("hparams", "l2"): [None, 1, "exp", [], {}],
    ("hparams", "l2", "transform"): [None, 1, [], "__import__('os')"],
    ("hparams", "l2", "bounds"): [None, 1, {}, [0.0], ["0", None], [True, None], [1.0, 0.0], [0, 1, 2]],
    ("hparams", "l2", "prior"): [None, True, "1", -1, [], {}],
    ("hparams", "l2", "by_position"): [1, True, "x", [], {}],
    ("hparams", "l2", "of"): [1, True, "", "a\nb", "x" * 257, [], {}],
    ("hparams", "l2", "axes"): [1, "row", {}, [1], [""], [[1]], [["a\0"]], [None], ["row"] * 17],
    ("graphs",): [None, 1, "x", [], {}],
    FORWARD: [None, 1, "x", [], {}],
    (*FORWARD, "inputs"): [None, 1, "x", {}, [], [[]]],
    (*FORWARD, "inputs", 0): [None, 1, "x", [], {}, {"dict": {}}, {"dict": [["w"]]}, {"dict": [[1, ref(0)]]}],
    (*FORWARD, "constants"): [None, 1, "mask", {}, [1], ["../../etc/passwd"], [["mask"]]],
    NODES: [None, 1, "x", {}],
    (*NODES, 0): [None, 1, "aten.linear.default", [], {}],
    (*NODES, 0, "op"): [None, 1, [], {}],
    (*NODES, 0, "args"): [None, 1, "xy", {}],
    (*NODES, 0, "args", 0): [{}, {"tuple": {}}, {"dict": 1}, {"dtype": "Tensor"}, {"float": 1}, {"expr_str": "1"}],
    (*NODES, 1, "kwargs"): [None, 1, "x", [], {"__class__()": 1}, {"": 1}],
    (*REGION, "region"): [None, 1, [], "vmap", "autocast"],
    (*REGION, "options"): [None, True, {}, [], ["True"], [True, True], [{"dtype": "float32"}]],
    (*REGION, "graph"): [None, 1, [], {}],
    (*REGION, "args"): [None, 1, {}, [], [1], [[ref(0)]]],
    (*REGION, "graph", "inputs"): [[], [{"tuple": [ref(0)]}], [ref(0), ref(1)]],
    (*REGION, "graph", "constants"): [["mask"]],
    (*REGION, "graph", "outputs"): [ref(0), [ref(0)], {"tuple": [1]}],
    (*FORWARD, "outputs"): [None, 1, ref(0), {"tuple": []}, {"tuple": [{"device": "program"}, columns()]}],
    ("graphs", "penalty", "outputs"): [None, 1.0, {"tuple": [ref(0)]}],
    ("graphs", "prepare", "outputs"): [None, columns(), columns(x=1)],
    ("graphs", "predict", "outputs"): [None, 1.0, columns(logits=3), {"tuple": [ref(3)]}],
    ("graphs", "predict", "inputs"): [None, [], [columns(w=0)]],
    ("graphs", "val_loss", "outputs"): [None, 1.0, columns(loss=3), {"tuple": [ref(3)]}, {"tuple": [ref(3), 1.0]}],
    ("graphs", "val_loss", "inputs", 0): [None, {"tuple": [ref(0)]}, columns(logits=0)],
    ("metrics",): [None, 1, "x", [], {"": {}}, {"loss": {}}, {"a'b": {}}, {"largest": 1}],
    ("metrics", "largest", "outputs"): [None, columns(largest=2), {"tuple": [ref(2)] * 3}],
    ("metrics", "largest", "inputs", 1): [None, columns(), columns(l2=1, other=2)],
    ("graphs", "criterion", "inputs", 0): [{"tuple": [ref(0)]}, columns(logits=0)],
}


def family() -> Iterator[tuple[str, Document | bytes]]:
    for path, values in TYPED_PLACES.items():
        for value in values:
            yield f"{'/'.join(map(str, path))} = {json.dumps(value)[:40]}", changed(*path, to=value)
    for path in (("torch",), ("hparams", "l2", "bounds"), FORWARD, (*FORWARD, "nodes"), (*NODES, 0, "kwargs")):
        yield f"no {'/'.join(map(str, path))}", without(*path)
    for path in ((), ("hparams", "l2"), FORWARD, (*NODES, 0), REGION):
        yield f"more at {'/'.join(map(str, path))}", changed(*path, "more", to=1)

    # Graphs without cycles: a value exists once the node before has computed it.
    for at in (4, 5, 999, -1, True, "0", None, 0.0):
        yield f"forward, node 0 reads {at!r}", changed(*NODES, 0, "args", 0, to={"ref": at})
    yield "a region reads its own result", changed(*REGION, "args", to=[ref(6)])
    yield "inputs out of order", changed(*FORWARD, "inputs", 2, to=columns(l2=2))

    # Names.
    yield "a column twice", changed("graphs", "prepare", "inputs", 1, to={"dict": [["x", ref(1)], ["x", ref(2)]]})
    yield "a key twice", replaced('"forward":', '"forward": 1, "forward":')
    for name in ("", "a'b", "a\nb", "a\0b", "\ud800", "a" * 257):
        yield f"the name {name[:8]!r}", changed("graphs", "prepare", "inputs", 1, to={"dict": [[name, ref(1)]]})
    yield "another parameter", changed(*FORWARD, "inputs", 0, to=columns(v=0))
    yield (
        "another hyperparameter",
        changed("hparams", to={"l1": l2()}),
    )

    # Numbers.
    for number in ("NaN", "Infinity", "-Infinity", "1e999", "9" * 19, "-" + "9" * 19, "9" * 5000, "01", "1."):
        yield f"the number {number[:10]}", replaced("-20", number)
        yield f"the argument {number[:10]}", replaced('{"alpha": 1.0}', f'{{"alpha": {number}}}')

    # Nesting and size.
    yield "lists in lists", changed(*NODES, 0, "args", 0, to=nested(17, 1, lambda inner: [inner]))
    yield "regions in regions", changed(*REGION, "graph", to=nested(9, graph([ref(0)], [], {"tuple": []}), region_of))
    for levels in (129, 500, 100_000):
        yield f"{levels} open brackets", b"[" * levels
        yield f"{levels} levels", b"[" * levels + b"]" * levels
    yield "brackets in a string that never ends", b'"' + b"[" * 129
    yield "many values", b"[" + b"0," * MAX_VALUES + b"0]"
    yield "many bytes", b" " * (MAX_DOCUMENT_BYTES + 1)
    yield "many nodes", changed(*NODES, to=[call("aten.neg.default", ref(0))] * 100_001)

    # Something else.
    for raw in (b"", b"{", b"null", b"[]", b"{}", b"PK\x03\x04", b"\x80\x04\x95.", b"\xff\xfe", b'"\\'):
        yield f"the bytes {raw!r}", raw


MALFORMED = dict(family())


def test_the_program_that_is_corrupted_here_is_taken_by_both(http):
    good = json.dumps(document(torch_version())).encode()
    body = {"graphs": put(http, good), "tensors": put(http, TENSORS_FILE)}
    assert http.post("/programs", json=body).status_code == 201
    assert set(load(good, TENSORS_FILE).params) == {"w"}


@pytest.mark.parametrize(("version", "later"), [(2, ("of", "axes", "prior")), (3, ("prior",))])
def test_both_take_earlier_formats_without_the_fields_that_came_later(http, version: int, later: tuple[str, ...]):
    earlier = changed("format", to=version)
    with pytest.raises(ProgramInvalid, match=r"hparams|l2"):
        load(json.dumps(earlier).encode(), TENSORS_FILE)
    for name in later:
        del earlier["hparams"]["l2"][name]
    taken = json.dumps(earlier).encode()
    assert not load(taken, TENSORS_FILE).priors
    body = {"graphs": put(http, taken), "tensors": put(http, TENSORS_FILE)}
    assert http.post("/programs", json=body).status_code == 201


def test_both_pass_over_what_a_writer_of_safetensors_says_of_itself(http):
    good = json.dumps(document(torch_version())).encode()
    tensors = save(TENSORS, metadata={"format": "np"})
    assert http.post("/programs", json={"graphs": put(http, good), "tensors": put(http, tensors)}).status_code == 201
    assert set(load(good, tensors).params) == {"w"}


@pytest.fixture(scope="module")
def uploader(server) -> Iterator[tuple[Any, str]]:
    """A client, and the digest of the tensors."""
    with server.http(server.new_token()) as client:
        yield client, put(client, TENSORS_FILE)


@pytest.mark.parametrize("name", MALFORMED)
def test_both_refuse_with_the_same_sentence(uploader, name: str):
    http, tensors = uploader
    corrupted = MALFORMED[name]
    data = corrupted if isinstance(corrupted, bytes) else json.dumps(corrupted).encode()
    answer = http.post("/programs", json={"graphs": put(http, data), "tensors": tensors})
    with pytest.raises(ProgramInvalid) as caught:
        load(data, TENSORS_FILE)
    assert problem(answer, 422, caught.value.code())["detail"] == str(caught.value)
    assert str(caught.value).startswith("The program was refused: ")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("key", ["code.x", "params", "params.", "params.a'b", "hparams.l1", "constants.more\n"])
def test_both_refuse_tensors_of_other_names_with_the_same_sentence(uploader, key: str):
    http, _ = uploader
    corrupted = save(
        {name: values for name, values in TENSORS.items() if name != "hparams.l2"} | {key: TENSORS["hparams.l2"]}
    )
    data = json.dumps(document(torch_version())).encode()
    answer = http.post("/programs", json={"graphs": put(http, data), "tensors": put(http, corrupted)})
    with pytest.raises(ProgramInvalid) as caught:
        load(data, corrupted)
    assert problem(answer, 422, caught.value.code())["detail"] == str(caught.value)
