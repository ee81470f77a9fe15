"""What is wrong with a reference is said when the problem is made or checked, with what to do."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

import nestor
from nestor.data import Ref, ref
from nestor.errors import (
    ArgumentInvalid,
    ColumnReserved,
    DataLengthsDiffer,
    MissingExtra,
    NestorError,
    ReferenceColumnNotFound,
    ReferenceInvalid,
    ReferenceNotFound,
    ReferenceNotOneColumn,
    ReferenceUnreadable,
    ReferenceWithoutNames,
    SplitEmpty,
)
from tests.client.problems import squared_error

Y = torch.ones(4, 1)
TENSORS = {"x": torch.ones(4, 2), "y": Y}

URIS: dict[str, tuple[Any, str]] = {
    "a path": ("/data/x.npy", "it has no scheme"),
    "a Path": (Path("/data/x.npy"), "it is a PosixPath, not a string"),
    "no string": (5, "it is a int, not a string"),
    "http": ("http://host/x.npy", "the scheme 'http' is not supported"),
    "upper case": ("S3://bucket/x.npy", "the scheme 'S3' is not supported"),
    "two slashes": ("file://data/x.npy", "'data' stands in the place of a host"),
    "another machine": ("file://server/data/x.npy", "'server' stands in the place of a host"),
    "nothing": ("file://", "it names no file"),
    "up": ("file:///data/../etc/x.npy", "it leads through '..'"),
    "encoded up": ("file:///data/%2e%2e/etc/x.npy", "it leads through '..'"),
    "up in a bucket": ("s3://bucket/a/../x.npy", "it leads through '..'"),
    "a bucket": ("s3://bucket", "it names no object; write s3://bucket/key"),
    "no bucket": ("s3:///x.npy", "it names no object"),
    "a pickle": ("file:///data/x.pt", r"its extension must be one of \.safetensors, \.npy, \.parquet"),
    "no extension": ("file:///data/x", "its extension must be one of"),
    "an archive": ("file:///data/x.npz", "its extension must be one of"),
    "a line break": ("file:///data/x\n.npy", "characters that cannot be printed"),
    "an end of a string": ("file:///data/x%00.npy", "it names no file"),
    "too long": ("file:///" + "x" * 3_000 + ".npy", "it is longer than 2,048 characters"),
}


@pytest.mark.parametrize(("uri", "says"), URIS.values(), ids=URIS)
def test_a_uri_that_cannot_be_used_is_refused_with_its_reason(uri, says):
    with pytest.raises(ReferenceInvalid, match=f"^The reference .* cannot be used: .*{says}.*Write it like file:///"):
        ref(uri)


@pytest.mark.parametrize("columns", [[], "", 5, ["x", "x"], ["x", 1], {"x": "y"}, [""]])
def test_columns_that_are_no_names_are_refused(columns):
    with pytest.raises(ArgumentInvalid, match=r"nestor.data.ref: columns is .*Pass the name of a column"):
        ref("file:///x.npy", columns=columns)


def test_a_reference_is_a_value_that_says_what_it_names():
    one = ref("file:///data/a%20b/Train.SAFETENSORS", columns="x")
    assert (one.scheme, one.path, one.format) == ("file", "/data/a b/Train.SAFETENSORS", "safetensors")
    assert one == Ref(one.uri, ("x",))
    assert (ref("s3://b/k%20.npy").path, ref("file://localhost/x.npy").path) == ("b/k%20.npy", "/x.npy")
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.uri = "file:///other.npy"  # pyright: ignore[reportAttributeAccessIssue]


def npy(values: Any, *, cut: int = 0) -> Callable[[Path], Any]:
    def write(path: Path) -> Any:
        np.save(path / "x.npy", values, allow_pickle=True)
        os.truncate(path / "x.npy", (path / "x.npy").stat().st_size - cut)
        return {"x": ref((path / "x.npy").as_uri()), "y": Y}

    return write


def tensors(data: bytes, **options: Any) -> Callable[[Path], Any]:
    def write(path: Path) -> Any:
        (path / "a.safetensors").write_bytes(data)
        return ref((path / "a.safetensors").as_uri(), **options)

    return write


def parquet(table: dict[str, Any], **options: Any) -> Callable[[Path], Any]:
    def write(path: Path) -> Any:
        pyarrow.parquet.write_table(pyarrow.table(table), path / "a.parquet")
        return ref((path / "a.parquet").as_uri(), **options)

    return write


def raw(name: str, data: bytes) -> Callable[[Path], Any]:
    def write(path: Path) -> Any:
        (path / name).write_bytes(data)
        return {"x": ref((path / name).as_uri()), "y": Y}

    return write


def directory(path: Path) -> Any:
    (path / "a.safetensors").mkdir()
    return ref((path / "a.safetensors").as_uri())


def pipe(path: Path) -> Any:
    os.mkfifo(path / "x.npy")
    return {"x": ref((path / "x.npy").as_uri()), "y": Y}


def loop(path: Path) -> Any:
    (path / "x.npy").symlink_to(path / "x.npy")
    return {"x": ref((path / "x.npy").as_uri()), "y": Y}


def two_lengths(path: Path) -> Any:
    np.save(path / "x.npy", np.ones((3, 2)))
    np.save(path / "y.npy", np.ones((4, 1)))
    return tuple(ref((path / f"{name}.npy").as_uri()) for name in "xy")


NO_FILE, BAD = ReferenceNotFound, ReferenceUnreadable
FILES: dict[str, tuple[Callable[[Path], Any], type[NestorError], str]] = {
    "missing": (lambda path: ref(f"file://{path}/a.parquet"), NO_FILE, "on this machine: there is no such file"),
    "below a file": (lambda path: ref("file:///etc/hostname/a.parquet"), NO_FILE, "not a directory"),
    "a directory": (directory, NO_FILE, "it is a directory"),
    "a pipe": (pipe, NO_FILE, "it is not a plain file"),
    "a loop of links": (loop, NO_FILE, "symbolic links"),
    "a long name": (lambda path: ref(f"file://{path}/{'x' * 300}.parquet"), NO_FILE, "name too long"),
    "an empty safetensors file": (tensors(b""), BAD, "shorter than the eight bytes"),
    "a truncated safetensors file": (tensors(save(TENSORS)[:-1]), BAD, "its tensors end at byte .*, but the file has"),
    "a safetensors file with a cut header": (tensors(save(TENSORS)[:20]), BAD, "its header is cut off"),
    "a longer safetensors file": (tensors(save(TENSORS) + b"0"), BAD, "its tensors end at byte"),
    "a pickle as safetensors": (tensors(b"\x80\x04\x95 a pickle"), BAD, "above the limit"),
    "no tensors": (tensors(save({})), NestorError, "The train split has no columns"),
    "a column that is not there": (
        tensors(save(TENSORS), columns=["x", "z"]),
        ReferenceColumnNotFound,
        "names the column 'z', but the file has 'x', 'y'",
    ),
    "a column without the model's": (
        tensors(save(TENSORS), columns="y"),
        NestorError,
        "The model reads the column 'x'",
    ),
    "a scalar": (tensors(save({"x": torch.ones(4, 2), "y": torch.ones(())})), DataLengthsDiffer, "y: a scalar"),
    "tensors of two lengths": (tensors(save({"x": torch.ones(3), "y": Y})), DataLengthsDiffer, "x: 3, y: 4"),
    "files of two lengths": (two_lengths, DataLengthsDiffer, "x: 3, y: 4"),
    "the reserved name": (tensors(save(TENSORS | {"index": Y.clone()})), ColumnReserved, "'index'"),
    "no examples": (tensors(save({"x": torch.ones(0, 2), "y": torch.ones(0, 1)})), SplitEmpty, "is empty"),
    "an .npy file as a split": (
        lambda path: npy(np.ones((4, 2)))(path)["x"],
        ReferenceWithoutNames,
        r"Put it into a dict: train=\{'x'",
    ),
    "columns of an .npy file": (
        lambda path: {"x": ref(npy(np.ones((4, 2)))(path)["x"].uri, columns="x"), "y": Y},
        ReferenceColumnNotFound,
        "the file has no column names",
    ),
    "several columns as one": (
        lambda path: (tensors(save(TENSORS))(path), Y),
        ReferenceNotOneColumn,
        r"column 'x' of the train split is a reference to several columns: 'x', 'y'",
    ),
    "an .npy file of objects": (npy(np.array([[1], "a"], dtype=object)), BAD, "Python objects, .*a pickle"),
    "an .npy file in Fortran order": (npy(np.asfortranarray(np.ones((4, 2)))), BAD, "Fortran order.*ascontiguousarray"),
    "an .npy file of strings": (npy(np.array(["a"] * 4)), BAD, "numbers of the type <U1"),
    "an .npy file of records": (npy(np.zeros(4, [("a", "f4")])), BAD, "which torch does not have"),
    "an .npy file of dates": (npy(np.zeros(4, "M8[s]")), BAD, "which torch does not have"),
    "an .npy file of complex numbers": (npy(np.ones(4, np.complex64)), BAD, "complex64"),
    "an .npy file of long doubles": (npy(np.ones(4, np.longdouble)), BAD, "which torch does not have"),
    "a truncated .npy file": (npy(np.ones((4, 2)), cut=1), BAD, "announces 192 bytes, and it has 191"),
    "an .npy file with a cut header": (npy(np.ones((4, 2)), cut=150), BAD, "EOF"),
    "a scalar .npy file": (npy(np.float32(1)), DataLengthsDiffer, "x: a scalar"),
    "text as .npy": (raw("x.npy", b"1,2\n3,4\n"), BAD, "magic string"),
    "an empty .npy file": (raw("x.npy", b""), BAD, "EOF"),
    "text as Parquet": (raw("x.parquet", b"1,2\n3,4\n"), BAD, "Parquet"),
    "an empty Parquet file": (raw("x.parquet", b""), BAD, "Parquet"),
    "Parquet with strings": (parquet({"x": ["a"] * 4}), BAD, "column 'x' has the type string"),
    "Parquet with lists": (parquet({"x": [[1.0], [1.0, 2.0]]}), BAD, "column 'x' has the type list"),
    "Parquet with structures": (parquet({"x": [{"a": 1}] * 4}), BAD, "column 'x' has the type struct"),
    "Parquet with dates": (parquet({"x": np.zeros(4, "M8[s]")}), BAD, "column 'x' has the type timestamp"),
    "Parquet with decimals": (
        parquet({"x": pyarrow.array([1, 2], pyarrow.decimal128(5))}),
        BAD,
        "column 'x' has the type decimal",
    ),
    "Parquet with nulls": (parquet({"x": [1.0, None, 2.0, 3.0], "y": [1.0] * 4}), BAD, "column 'x' has nulls"),
    "Parquet with nulls in lists": (
        parquet({"x": pyarrow.array([[1.0, None]] * 4, pyarrow.list_(pyarrow.float32(), 2)), "y": [1.0] * 4}),
        BAD,
        "column 'x' has nulls",
    ),
    "a Parquet column that is not there": (
        parquet({"x": [1.0] * 4}, columns="z"),
        ReferenceColumnNotFound,
        "names the column 'z', but the file has 'x'",
    ),
}


def problem(train: Any, model: nn.Module | None = None) -> nestor.Problem:
    model = model or nn.Linear(2, 1)
    return nestor.Problem(model, nestor.hparams.L2(model), squared_error, squared_error, train=train, val=TENSORS)


@pytest.mark.parametrize(("write", "error", "says"), FILES.values(), ids=FILES)
def test_a_file_that_cannot_be_mapped_is_refused_with_its_reason(write, error, says, tmp_path):
    given = write(tmp_path)
    with pytest.raises(error, match=says) as raised:
        problem(given)
    assert type(raised.value) is not NestorError
    assert str(raised.value)[0].isupper()


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    save_file(TENSORS, tmp_path / "a.safetensors")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    with pytest.raises(ReferenceNotFound, match="the permission is denied"):
        problem(ref((tmp_path / "a.safetensors").as_uri()))


def test_without_pyarrow_the_extra_to_install_is_named(tmp_path, monkeypatch):
    given = parquet({"x": [1.0] * 4})(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"Reading Parquet files by reference needs pyarrow.*nestor\[parquet\]"):
        problem(given)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"x": torch.tensor([[1.0, 2.0], [3.0, float("nan")], [0.0, 0.0], [0.0, 0.0]])}, "first in example 1"),
        ({"y": torch.tensor([[1.0], [2.0], [3.0], [float("inf")]])}, "The column 'y' holds NaN or infinity"),
        ({"x": torch.ones(4, 2, dtype=torch.float64)}, "The column 'x' is torch.float64, the model's parameters are"),
        ({"x": torch.ones(4, 5)}, "shapes cannot be multiplied|4, 5"),
    ],
    ids=["nan", "infinite", "another dtype", "another shape"],
)
def test_a_check_finds_in_a_file_what_it_finds_in_tensors(tmp_path, columns, says):
    save_file(TENSORS | columns, tmp_path / "a.safetensors")
    both = TENSORS | columns, ref((tmp_path / "a.safetensors").as_uri())
    found = [[(finding.where, finding.sentence) for finding in problem(train).check().findings] for train in both]
    assert found[0] == found[1]
    assert any(re.search(says, sentence) for _, sentence in found[0]), found[0]
