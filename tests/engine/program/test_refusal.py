"""A program is what a stranger sent: everything here must be refused before torch builds anything."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle  # noqa: TID251  # the attacks are real ones
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nestor_engine.program import load
from tests.engine.program.conftest import REFUSALS, Document, document, rejected, tensors
from tests.engine.program.problems import exported


@pytest.mark.usefixtures("nothing_is_built")
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"PK\x03\x04",
        b"\x80\x04\x95",
        b"null",
        b"[]",
        b"{}",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b"[" + b"[]," * 3_000_000 + b"[]]",
        b'{"format":1,"format":1}',
        b'{"format":NaN}',
        b'{"format":1e999}',
        b'{"format":' + b"9" * 5000 + b"}",
        b" " * (17 * 2**20),
    ],
    ids=lambda raw: f"{raw[:12]!r} {len(raw)}",
)
def test_what_is_not_our_json_is_refused(raw: bytes):
    rejected(raw)


@pytest.mark.usefixtures("nothing_is_built")
def test_the_same_key_twice_is_refused():
    raw = json.dumps(document()).replace('"inputs":', '"inputs": [], "inputs":', 1).encode()
    assert "occurs twice" in rejected(raw)


def change(path: str, value: Any) -> Callable[[Document], None]:
    *parents, last = path.split("/")

    def apply(changed: Any) -> None:
        for key in parents:
            changed = changed[int(key) if isinstance(changed, list) else key]
        if value is KeyError:
            del changed[last]
        else:
            changed[int(last) if isinstance(changed, list) else last] = value

    return apply


@pytest.mark.usefixtures("nothing_is_built")
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", 2),
        ("format", True),
        ("format", KeyError),
        ("torch", "1.0"),
        ("torch", None),
        ("extra", 1),
        ("graphs/forward", KeyError),
        ("graphs/train", {}),
        ("graphs/forward/nodes", {}),
        ("graphs/forward/constants", ["../../etc/passwd"]),
        ("graphs/forward/inputs", []),
        ("graphs/forward/inputs/0", {"dict": []}),
        ("graphs/forward/inputs/0", {"dict": [["a'b", {"ref": 0}]]}),
        ("graphs/forward/inputs/0", {"dict": [["a\nb", {"ref": 0}]]}),
        ("graphs/forward/inputs/0/dict/0/0", "nobody.weight"),
        ("graphs/forward/inputs/0/dict/0/1", {"ref": 1}),
        ("graphs/forward/outputs", {"ref": 0}),
        ("graphs/forward/outputs", {"ref": 9_999}),
        ("graphs/penalty/outputs", 1.0),
        ("graphs/penalty/outputs", {"tuple": [{"ref": 0}]}),
        ("graphs/criterion/inputs/0", {"ref": 0}),
        ("graphs/val_loss/outputs", {"dict": [["loss", {"ref": 0}]]}),
        ("graphs/val_loss/outputs", 1.0),
        ("graphs/prepare/outputs", {"dict": []}),
        ("hparams", {}),
        ("hparams", []),
        ("hparams/l2.linear.bias/transform", "__import__('os')"),
        ("hparams/l2.linear.bias/code", "1"),
        ("hparams/l2.linear.bias", {"transform": "exp"}),
        ("hparams/l2.linear.bias/bounds", None),
        ("hparams/l2.linear.bias/bounds", [0.0]),
        ("hparams/l2.linear.bias/bounds", [1.0, 0.0]),
        ("hparams/l2.linear.bias/bounds", ["0", None]),
        ("hparams/l2.linear.bias/bounds", [True, None]),
    ],
    ids=str,
)
def test_a_document_of_another_form_is_refused(path: str, value: Any):
    changed = document()
    change(path, value)(changed)
    rejected(changed)


def test_another_version_of_torch_is_named_with_the_remedy():
    message = rejected(document() | {"torch": "2.11"})
    assert "exported with torch '2.11'" in message
    assert f"Export it again with torch {'.'.join(torch.__version__.split('.')[:2])}" in message


def test_tensors_that_are_not_what_they_say_are_refused():
    valid = tensors()
    for cut in (0, 4, 8, 100, len(valid) - 1):
        rejected(document(), valid[:cut])
    rejected(document(), valid + b"x")
    rejected(document(), (2**62).to_bytes(8, "little") + valid[8:])
    rejected(document(), pickle.dumps({"params": 1}))


def test_tensors_that_do_not_belong_are_refused():
    loaded = safetensors.torch.load(tensors())
    for name, tensor in {
        "params.linear.weight": torch.full((4, 6), float("nan")),
        "hparams.l2.linear.bias": torch.full((4,), float("inf")),
        "buffers.norm": torch.tensor(float("nan")),
        "params.more": torch.zeros(1),
        "params.a'b": torch.zeros(1),
        "optimizer.state": torch.zeros(1),
        "params.linear.bias": torch.zeros(4, dtype=torch.int64),
    }.items():
        rejected(document(), safetensors.torch.save(loaded | {name: tensor}))


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def archive(folder: Path, replace: Callable[[str, bytes], bytes]) -> Path:
    """A genuine .pt2 with some of its members changed."""

    class Model(torch.nn.Module):
        def forward(self, x):
            return x.sum() * x.shape[0]

    sizes = ({0: torch.export.Dim("b")},)
    torch.export.save(torch.export.export(Model(), (torch.ones(4, 2),), dynamic_shapes=sizes), folder / "good.pt2")
    made = folder / "bad.pt2"
    with zipfile.ZipFile(folder / "good.pt2") as good, zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as bad:
        for name in good.namelist():
            bad.writestr(name, replace(name, good.read(name)))
    return made


def pickled_inputs(marker: Path) -> Callable[[str, bytes], bytes]:
    def replace(name: str, content: bytes) -> bytes:
        return pickle.dumps(Payload(marker)) if "sample_inputs" in name else content

    return replace


def expression(marker: Path) -> Callable[[str, bytes], bytes]:
    code = f"__import__('pathlib').Path('{marker}').touch() or Symbol('s77', positive=True, integer=True)"

    def plant(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: code if key == "expr_str" else plant(inner) for key, inner in value.items()}
        return [plant(item) for item in value] if isinstance(value, list) else value

    def replace(name: str, content: bytes) -> bytes:
        return json.dumps(plant(json.loads(content))).encode() if name.endswith("models/model.json") else content

    return replace


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("exploit", [pickled_inputs, expression])
def test_an_archive_that_executes_code_in_torch_executes_nothing_here(tmp_path: Path, exploit: Any):
    marker = tmp_path / "executed"
    bad = archive(tmp_path, exploit(marker))
    with contextlib.suppress(Exception):  # by then it is too late
        torch.export.load(bad)  # noqa: TID251  # what must never be called elsewhere
    assert marker.exists(), "the exploit must be a real one"
    marker.unlink()

    content = bad.read_bytes()
    rejected(content)
    rejected(document(), content)
    with zipfile.ZipFile(bad) as members:
        for name in members.namelist():
            rejected(members.read(name))
            rejected(document(), members.read(name))
    assert not marker.exists()


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, inner in items for path in paths(inner, (*at, key)))]


REF = {"ref": 0}
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**64), 2**64),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([REF, {"tuple": []}, {"dict": [["x", REF]]}, {"dtype": "int8"}, {"float": "nan"}, [], {}, [[]]]),
    st.sampled_from(["aten.add_.Tensor", "aten.sym_size.int", "operator.getitem", "aten.lstm.input", "operator.add"]),
)
CHECKS: Any = list(HealthCheck)


@settings(max_examples=150, deadline=None, suppress_health_check=CHECKS)
@given(st.randoms(use_true_random=False), st.lists(JUNK, min_size=1, max_size=4))
def test_a_changed_program_is_loaded_or_refused_and_nothing_else(chance: random.Random, junk: list[Any]):
    changed = copy.deepcopy(document())
    for value in junk:
        *parents, last = chance.choice(paths(changed)[1:])
        target: Any = changed
        for key in parents:
            target = target[key]
        if chance.random() < 0.2:
            del target[last]
        else:
            target[last] = value
    with contextlib.suppress(*REFUSALS):
        load(json.dumps(changed).encode("utf-8", "surrogatepass"), tensors())


@settings(max_examples=100, deadline=None, suppress_health_check=CHECKS)
@given(st.data())
def test_changed_bytes_are_loaded_or_refused_and_nothing_else(data: st.DataObject):
    graphs, values = bytearray(exported("odd")[1].graphs), bytearray(tensors())
    for blob, reach in ((graphs, len(graphs)), (values, 600)):
        for _ in range(data.draw(st.integers(0, 3))):
            blob[data.draw(st.integers(0, reach - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(*REFUSALS):
        load(bytes(graphs), bytes(values))
