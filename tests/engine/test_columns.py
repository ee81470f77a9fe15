"""Whatever a user passes as a split becomes columns, or is refused with its split, its column and what to do."""

from __future__ import annotations

import datetime
from collections import namedtuple
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from nestor.errors import DatasetInvalid
from nestor_engine import Data
from nestor_engine.data.columns import columns_of

N = 5
X = torch.arange(10.0).reshape(N, 2)
Y = torch.arange(N)
XN, YN = X.numpy(), Y.numpy()
F32, F64, I32, I64 = torch.float32, torch.float64, torch.int32, torch.int64
FRAME = pd.DataFrame({"a": YN, "b": YN / 2})
WORDS = ["red", "green", "blue", "red", "green"]
DAYS = pd.date_range("2026-01-01", periods=N)
Pair = namedtuple("Pair", "image label")


class Items(Dataset[Any]):
    """A Dataset of what a function returns for each number."""

    def __init__(self, item: Callable[[int], Any], n: int = N) -> None:
        self._item, self._n = item, n

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, number: int) -> Any:
        return self._item(number)


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(range(3))


class NoLength(Dataset[Any]):
    def __getitem__(self, number: int) -> int:
        return number


def inference() -> Tensor:
    with torch.inference_mode():
        return X * 1


def nested() -> Tensor:
    return torch.nested.nested_tensor([X, X[:2]], layout=torch.jagged)


def read_only() -> Any:
    array = XN.copy()
    array.flags.writeable = False
    return array


def sparse_series() -> Any:
    return pd.Series(pd.arrays.SparseArray([0.0, 0.0, 1.0, 2.0, 0.0]))


# name → what is passed as column x, with its values and dtype under float32 and under float64 weights
COLUMNS: dict[str, tuple[Callable[[], Any], Any, torch.dtype, torch.dtype]] = {
    "tensor": (lambda: X, X, F32, F32),
    "double tensor": (lambda: X.double(), X, F64, F64),
    "tensor that requires a gradient": (lambda: X.clone().requires_grad_(), X, F32, F32),
    "parameter": (lambda: torch.nn.Parameter(X), X, F32, F32),
    "tensor made under inference mode": (inference, X, F32, F32),
    "transposed tensor": (lambda: X.T.contiguous().T, X, F32, F32),
    "expanded tensor": (lambda: torch.ones(1, 2).expand(N, 2), torch.ones(N, 2), F32, F32),
    "imaginary part of a conjugate": (lambda: torch.complex(X, -X).conj().imag, X, F32, F32),
    "uint16 tensor": (lambda: Y.to(torch.uint16), Y, I32, I32),
    "uint64 tensor": (lambda: Y.to(torch.uint64), Y, I64, I64),
    "bfloat16 tensor": (lambda: X.bfloat16(), X, torch.bfloat16, torch.bfloat16),
    "float64 array": (lambda: XN.astype("f8"), X, F32, F64),
    "float32 array": (lambda: XN, X, F32, F64),
    "float16 array": (lambda: XN.astype("f2"), X, F32, F64),
    "long double array": (lambda: XN.astype(np.longdouble), X, F32, F64),
    "negative strides": (lambda: XN[::-1, ::-1], X.flip(0, 1), F32, F64),
    "negative strides of integers": (lambda: YN[::-1], Y.flip(0), I64, I64),
    "big-endian floats": (lambda: XN.astype(">f4"), X, F32, F64),
    "big-endian integers": (lambda: YN.astype(">i4"), Y, I32, I32),
    "read-only array": (read_only, X, F32, F64),
    "broadcast array": (lambda: np.broadcast_to(XN[:1], (N, 2)), X[:1].expand(N, 2), F32, F64),
    "Fortran order": (lambda: np.asfortranarray(XN), X, F32, F64),
    "uint8 array": (lambda: YN.astype("u1"), Y, torch.uint8, torch.uint8),
    "uint16 array": (lambda: YN.astype("u2"), Y, I32, I32),
    "uint32 array": (lambda: YN.astype(">u4"), Y, I64, I64),
    "uint64 array": (lambda: YN.astype("u8"), Y, I64, I64),
    "bool array": (lambda: YN > 2, Y > 2, torch.bool, torch.bool),
    "infinite numbers": (lambda: np.full(N, np.inf), torch.full((N,), torch.inf), F32, F64),
    "array without masked entries": (lambda: np.ma.masked_array(XN, False), X, F32, F64),
    "list of numbers": (lambda: [0.1] * N, torch.tensor([0.1] * N, dtype=F64), F32, F64),
    "list of whole numbers": (lambda: YN.tolist(), Y, I64, I64),
    "list of lists": (lambda: XN.tolist(), X, F32, F64),
    "tuple of numbers": (lambda: tuple(YN.tolist()), Y, I64, I64),
    "list of tensors": (lambda: list(X), X, F32, F32),
    "list of arrays": (lambda: list(XN.astype("f8")), X, F32, F64),
    "list of NumPy's numbers": (lambda: list(YN.astype("f4")), Y, F32, F64),
    "lists of single numbers": (lambda: [[row[0], row[1]] for row in X], X, F32, F64),
    "Series": (lambda: FRAME["b"], Y / 2, F32, F64),
    "Series with another index": (lambda: pd.Series(YN, index=range(9, 4, -1)), Y, I64, I64),
    "nullable Series": (lambda: pd.Series(YN, dtype="Int64"), Y, I64, I64),
    "nullable bool Series": (lambda: pd.Series(YN > 2, dtype="boolean"), Y > 2, torch.bool, torch.bool),
    "sparse Series": (sparse_series, torch.tensor([0.0, 0.0, 1.0, 2.0, 0.0]), F32, F64),
    "Index": (lambda: pd.Index(YN), Y, I64, I64),
    "array of pandas": (lambda: pd.array(YN, dtype="Int32"), Y, I32, I32),
    "DataFrame": (lambda: FRAME, torch.stack([Y, Y / 2], 1), F32, F64),
    "DataFrame of integers": (lambda: FRAME[["a"]], Y[:, None], I64, I64),
    "DataFrame with two columns of one name": (lambda: FRAME[["a", "a"]], torch.stack([Y, Y], 1), I64, I64),
}


@pytest.mark.parametrize("weights", [F32, F64])
@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_has_the_values_and_the_dtype_of_its_source(name: str, weights: torch.dtype):
    given, values, single, double = COLUMNS[name]
    columns = columns_of("train", {"x": given(), "y": Y}, weights)
    x = columns["x"]
    assert x.dtype == (single if weights is F32 else double)
    assert torch.equal(x, values.to(x.dtype))
    assert not x.requires_grad
    assert not x.is_inference()
    assert (x[torch.arange(2)] * torch.ones((), requires_grad=True)).requires_grad  # autograd may save it
    assert torch.equal(Data.load(Data.of(columns, columns).save()).train["x"], x)


def test_an_array_of_the_right_dtype_is_not_copied():
    array = XN.copy()
    assert columns_of("train", (array, Y))["x"].data_ptr() == torch.from_numpy(array).data_ptr()


def test_data_made_under_inference_mode_can_be_differentiated_also_if_the_problem_is_made_there():
    with torch.inference_mode():
        columns = columns_of("train", Items(lambda i: (X[i] * 1, XN.tolist()[i])))
    assert not any(values.is_inference() for values in columns.values())


SPLITS: dict[str, tuple[Callable[[], Any], dict[str, Tensor]]] = {
    "pair": (lambda: (X, Y), {"x": X, "y": Y}),
    "list of two": (lambda: [X, YN], {"x": X, "y": Y}),
    "two inputs": (lambda: ((X, XN), Y), {"x.0": X, "x.1": X, "y": Y}),
    "inputs in inputs": (lambda: ((X, (X, Y)), Y), {"x.0": X, "x.1.0": X, "x.1.1": Y, "y": Y}),
    "dict of inputs": (lambda: ({"ids": Y, "mask": Y > 2}, Y), {"x.ids": Y, "x.mask": Y > 2, "y": Y}),
    "dict of dicts": (lambda: {"x": {"ids": Y}, "y": X}, {"x.ids": Y, "y": X}),
    "named tuple": (lambda: Pair(X, Y), {"image": X, "label": Y}),
    "DataFrame": (lambda: FRAME, {"a": Y, "b": Y / 2}),
    "DataFrame and Series": (lambda: (FRAME[["b"]], FRAME["a"]), {"x": Y[:, None] / 2, "y": Y}),
    "TensorDataset": (lambda: TensorDataset(X, Y), {"x": X, "y": Y}),
    "TensorDataset of one": (lambda: TensorDataset(X), {"x": X}),
    "Subset of a Subset": (
        lambda: Subset(Subset(TensorDataset(X, Y), [4, 3, 1]), [2, 0]),
        {"x": X[[1, 4]], "y": Y[[1, 4]]},
    ),
    "ConcatDataset": (
        lambda: ConcatDataset([TensorDataset(X, Y)] * 2),
        {"x": torch.cat([X, X]), "y": torch.cat([Y, Y])},
    ),
    "Dataset of pairs": (lambda: Items(lambda i: (X[i], i)), {"x": X, "y": Y}),
    "Dataset of lists": (lambda: Items(lambda i: [XN[i], Y[i]]), {"x": X, "y": Y}),
    "Dataset of dicts": (
        lambda: Items(lambda i: {"ids": [i, i], "label": i / 2}),
        {"ids": torch.stack([Y, Y], 1), "label": Y / 2},
    ),
    "Dataset of inputs": (lambda: Items(lambda i: ((X[i], X[i]), i)), {"x.0": X, "x.1": X, "y": Y}),
    "Dataset of named tuples": (lambda: Items(lambda i: Pair(X[i], i)), {"image": X, "label": Y}),
    "Dataset of bools": (lambda: Items(lambda i: i > 2), {"x": Y > 2}),
    "Dataset of tensors": (lambda: Items(lambda i: X[i]), {"x": X}),
    "Dataset of tuples of one": (lambda: Items(lambda i: (X[i],)), {"x": X}),
    "Subset": (lambda: Subset(Items(lambda i: (X[i], i)), [3, 1]), {"x": X[[3, 1]], "y": Y[[3, 1]]}),
    "list of items": (lambda: [(X[i], i) for i in range(N)], {"x": X, "y": Y}),
    "list of dicts": (lambda: [{"x": X[i]} for i in range(2)], {"x": X[:2]}),
}


@pytest.mark.parametrize("name", SPLITS)
def test_a_split_has_the_columns_of_its_source(name: str):
    given, expected = SPLITS[name]
    columns = columns_of("train", given())
    assert list(columns) == list(expected)
    for column, values in expected.items():
        assert columns[column].dtype == values.dtype
        assert torch.equal(columns[column], values)


def objects(*entries: Any) -> Any:
    array = np.empty(len(entries), dtype=object)
    array[:] = entries
    return array


ENCODE, DATES = "Encode it as numbers", "Pass numbers, for example the days"
# name → what is passed as column x, and parts of the sentence behind "The column 'x' of the train split"
REFUSED_COLUMNS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "complex tensor": (lambda: X + 0j, ("complex64", "torch.view_as_real")),
    "complex array": (lambda: XN + 0j, ("complex64", "torch.view_as_real")),
    "complex number": (lambda: [1j] * N, ("complex", "torch.view_as_real")),
    "sparse tensor": (lambda: X.to_sparse(), ("sparse_coo", "to_dense()")),
    "nested tensor": (lambda: nested(), ("nested", "to_padded")),
    "tensor without numbers": (lambda: X.to("meta"), ("meta device", "a tensor with numbers")),
    "float8 tensor": (lambda: X.to(torch.float8_e4m3fn), ("float8_e4m3fn", "values.float()")),
    "large uint64 tensor": (lambda: torch.tensor([2**63] * N, dtype=torch.uint64), ("above those of int64",)),
    "large uint64 array": (lambda: np.full(N, 2**63, dtype="u8"), ("above those of int64",)),
    "large whole number": (lambda: [2**63] * N, ("entry 0", "outside of int64", "smaller numbers")),
    "numbers too large for float32": (lambda: np.full(N, 1e300), ("float32 cannot hold", "model.double()")),
    "strings": (lambda: WORDS, ("in entry 0, it is the text 'red'", ENCODE)),
    "array of strings": (lambda: np.array(WORDS), ("strings", ENCODE)),
    "bytes": (lambda: np.array([b"a"] * N), ("strings", ENCODE)),
    "dates": (lambda: [datetime.date(2026, 1, 1)] * N, ("it is a date", DATES)),
    "datetime64": (lambda: DAYS.to_numpy(), ("times (datetime64", DATES)),
    "timedelta64": (lambda: np.arange(N, dtype="m8[s]"), ("times (timedelta64", DATES)),
    "structured array": (lambda: np.zeros(N, dtype=[("a", "f4")]), ("structured array", "values['name']")),
    "masked array": (lambda: np.ma.masked_array(YN, YN > 2), ("masked entries", "values.filled")),
    "objects that are numbers": (lambda: objects(1, 2.0), ("numbers as objects", "astype('float32')")),
    "objects that are strings": (lambda: objects(1, "a"), ("entry 1: it is the text 'a'", ENCODE)),
    "objects that are missing": (lambda: objects(1, None), ("entry 1: a value is missing", "Fill or drop")),
    "objects that are not a number": (lambda: objects(1.0, float("nan")), ("entry 1 is missing", "Fill or drop")),
    "objects that are arrays": (lambda: objects(XN, XN[:2]), ("it is a ndarray", "numpy.stack")),
    "None": (lambda: None, ("a value is missing", "Fill or drop")),
    "list with None": (lambda: [1, None], ("in entry 1, a value is missing", "Fill or drop")),
    "list with pandas.NA": (lambda: [pd.NA, 1], ("in entry 0, a value is missing", "Fill or drop")),
    "decimals": (lambda: [object(), Decimal(1)], ("in entry 0, it is a object", "array of numbers")),
    "set": (lambda: {1, 2}, ("it is a set", "array of numbers")),
    "Dataset as a column": (lambda: Items(lambda i: i), ("it is a Items", "as the whole split")),
    "categorical Series": (lambda: pd.Series(WORDS, dtype="category"), ("categorical", "cat.codes", "get_dummies")),
    "Series of strings": (lambda: pd.Series(WORDS), ("dtype str", "pandas.factorize")),
    "Series of objects": (lambda: pd.Series([1, "a"], dtype=object), ("entry 1: it is the text 'a'", "factorize")),
    "Series of numbers as objects": (lambda: pd.Series(YN, dtype=object), ("numbers as objects", "astype")),
    "Series of times": (lambda: pd.Series(DAYS), ("times or intervals", ".dt.days")),
    "Series of times with a zone": (lambda: pd.Series(DAYS.tz_localize("UTC")), ("times or intervals", ".dt.days")),
    "Series of periods": (lambda: pd.Series(DAYS.to_period("D")), ("times or intervals", ".dt.days")),
    "Series of complex numbers": (lambda: pd.Series([1j] * N), ("complex128", "torch.view_as_real")),
    "Series with NaN": (lambda: pd.Series([1.0, np.nan, 2.0]), ("1 of 3 values are missing, first in row 1", "fillna")),
    "Series with NA": (lambda: pd.Series([1, None], dtype="Int64"), ("1 of 2 values are missing", "fillna")),
    "Series without values": (lambda: pd.Series([None, None]), ("all of its values are missing", "Leave it out")),
    "DataFrame with strings": (lambda: FRAME.assign(city=WORDS), ("in its column 'city'", "dtype str", "get_dummies")),
    "DataFrame with NaN": (lambda: FRAME.assign(c=[np.nan] * N), ("in its column 'c'", "5 of 5 values are missing")),
    "DataFrame without columns": (lambda: FRAME[[]], ("without columns", "at least one column")),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_COLUMNS)
def test_a_column_that_cannot_be_used_is_named_with_what_to_do(name: str):
    given, parts = REFUSED_COLUMNS[name]
    with pytest.raises(DatasetInvalid) as refused:
        columns_of("train", {"x": given(), "y": Y})
    sentence = str(refused.value)
    assert sentence.startswith("The column 'x' of the train split cannot be used: ")
    assert all(part in sentence for part in parts), sentence


PASS = "Pass a tuple (x, y), or a dict of columns by name."
REFUSED_SPLITS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "None": (lambda: None, ("The train split is None.", PASS)),
    "tensor": (lambda: X, ("The train split is a Tensor.", PASS)),
    "array": (lambda: XN, ("The train split is a ndarray.", PASS)),
    "Series": (lambda: FRAME["a"], ("The train split is a Series.", PASS)),
    "text": (lambda: "mnist", ("The train split is a str.", "Load the file first", PASS)),
    "tuple of three": (lambda: (X, Y, Y), ("The train split is a tuple of 3.", PASS)),
    "generator": (lambda: (i for i in range(3)), ("The train split is a generator.", PASS)),
    "no columns": (dict, ("The train split has no columns.",)),
    "DataLoader": (lambda: DataLoader(TensorDataset(X, Y), 2), ("DataLoader", "loader.dataset", "batch_size=2")),
    "IterableDataset": (Endless, ("an IterableDataset", "list(dataset)")),
    "Dataset without a length": (NoLength, ("a NoLength without a length", "__len__")),
    "empty Dataset": (lambda: Items(lambda i: i, n=0), ("The train split is empty.",)),
    "TensorDataset of three": (lambda: TensorDataset(X, Y, Y), ("TensorDataset of 3 tensors", "((a, b), y)")),
    "items of three": (lambda: Items(lambda i: (X[i], i, i)), ("items are a tuple of 3", "((a, b), y)")),
    "items of different shapes": (
        lambda: Items(lambda i: (X[: i + 1], i)),
        ("Item 1 of the column 'x' of the train split is of shape (2, 2), float32", "the first is of shape (1, 2)"),
    ),
    "items of different dtypes": (lambda: Items(lambda i: {"y": i / 2 if i else 0}), ("Item 1", "float32", "int64")),
    "items of different columns": (lambda: Items(lambda i: {"x": 1} if i else {"y": 2}), ("Item 1", "item 0 has 'y'")),
    "items that are images": (lambda: Items(lambda i: ("cat.png", i)), ("in item 0, it is the text 'cat.png'", ENCODE)),
    "items that are missing": (lambda: Items(lambda i: (None, i)), ("in item 0, a value is missing",)),
    "items that fail": (lambda: Items(lambda i: X[9]), ("Item 0 of the train split cannot be read: IndexError",)),
    "items at random": (lambda: Items(lambda i: torch.rand(2)), ("Item 0", "'x'", "Problem(transform=…)")),
    "index outside of a Subset": (lambda: Subset(TensorDataset(X, Y), [0, 9]), ("Item 1", "index 9 is out of range")),
    "more than fits into memory": (
        lambda: Items(lambda i: torch.zeros(1000), n=10**12),
        ("1,000,000,000,000 items, which take 4,000,000.0 GB", "Pass a Subset"),
    ),
    "columns of different lengths": (lambda: (X, Y[:3]), ("equally long", "x: 5, y: 3")),
    "a number as a column": (lambda: {"x": X, "scale": 2.0}, ("equally long", "scale: a scalar")),
    "lists of different lengths": (lambda: ([[1, 2], [3]], [0, 1]), ("Entry 1", "'x'", "(1,)", "(2,)", "Pad")),
    "tensors of different shapes": (lambda: ([X, X[:2]], [0, 1]), ("Entry 1", "'x'", "(2, 2)", "(5, 2)", "Pad")),
    "reserved name": (lambda: FRAME.reset_index(), ("column 'index', the reserved name", "Rename it")),
    "long name": (lambda: {"x" * 300: X}, ("a column named 'xxx", "…", "1 to 256 printable characters")),
    "lone surrogate": (lambda: {"x\ud800": X}, ("a column named 'x\\ud800'", "Rename it")),
    "quotes": (lambda: FRAME.rename(columns={"a": "Mother's age"}), ("Mother's age", "without quotes")),
    "number as a name": (lambda: {0: X}, ("a column named 0", "Rename it")),
    "DataFrame with numbers as names": (lambda: pd.DataFrame(XN), ("a column named 0", "Rename it")),
    "DataFrame with names of two levels": (lambda: pd.DataFrame(XN, columns=[["a", "a"], ["b", "c"]]), ("('a', 'b')",)),
    "DataFrame with one name twice": (lambda: FRAME[["a", "a"]], ("two columns named 'a'",)),
    "one path twice": (lambda: {"x": (X, X), "x.0": X}, ("two columns named 'x.0'",)),
    "pandas objects in different orders": (
        lambda: (FRAME, FRAME["a"][::-1]),
        ("'x' and 'y' have the same index in different orders", "y.loc[x.index]"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_SPLITS)
def test_a_split_that_cannot_be_used_is_named_with_what_to_do(name: str):
    given, parts = REFUSED_SPLITS[name]
    with pytest.raises(DatasetInvalid) as refused:
        columns_of("train", given())
    sentence = str(refused.value)
    assert "train split" in sentence
    assert all(part in sentence for part in parts), sentence


def test_a_dataset_may_return_the_same_tensor_for_every_item():
    buffer = torch.empty(2)
    columns = columns_of("train", Items(lambda i: buffer.copy_(X[i])))
    assert torch.equal(columns["x"], X)


def test_a_dataset_is_read_once_after_a_look_at_its_first_items():
    reads: list[int] = []
    columns = columns_of("train", Items(lambda i: (reads.append(i), X[i % N])[1], n=50))
    assert torch.equal(columns["x"], X.repeat(10, 1))
    assert len(reads) < 50 + 3 * 8
    assert reads[-50:] == list(range(50))
