"""Columns that stay in a file have the rows of those in memory, and nothing reads all of them at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import nestor
from nestor.errors import ColumnNotInMemory
from nestor_engine import Config, Data, Problem, optimize
from nestor_engine.data import mapped
from nestor_engine.data.mapped import MappedColumn, Scan, joined, rows_at, scan
from nestor_engine.hparams import L2, ClassWeights, LabelCorrection, LabelSmoothing

pytestmark = pytest.mark.cpu


def draw(n: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(n, 2, 3, generator=generator),
        "y": torch.randint(0, 3, (n,), generator=generator),
    }


def as_safetensors(columns: dict[str, Tensor], path: Path) -> Any:
    safetensors.torch.save_file(columns, path.with_suffix(".safetensors"))
    return nestor.data.ref(path.with_suffix(".safetensors").as_uri())


def as_npy(columns: dict[str, Tensor], path: Path) -> Any:
    refs = {}
    for name, values in columns.items():
        file = path.with_name(f"{path.name}-{name}.npy")
        # float64 and foreign byte order, which become what tensors are
        np.save(file, values.double().numpy().astype(">f8") if values.is_floating_point() else values.numpy())
        refs[name] = nestor.data.ref(file.as_uri())
    return refs


def as_parquet(columns: dict[str, Tensor], path: Path) -> Any:
    x = pyarrow.array(columns["x"].reshape(-1).numpy())
    for size in (3, 2):
        x = pyarrow.FixedSizeListArray.from_arrays(x, size)
    table = pyarrow.table({"y": columns["y"].numpy(), "x": x, "name": ["a"] * len(columns["y"])})
    pyarrow.parquet.write_table(table, path.with_suffix(".parquet"), row_group_size=7)
    return nestor.data.ref(path.with_suffix(".parquet").as_uri(), columns=["x", "y"])


def as_both(columns: dict[str, Tensor], path: Path) -> Any:
    return {"x": as_npy(columns, path)["x"], "y": columns["y"]}


WRITERS: dict[str, Callable[[dict[str, Tensor], Path], Any]] = {
    "safetensors": as_safetensors,
    "npy": as_npy,
    "parquet": as_parquet,
    "a column in memory": as_both,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "batches": {"batch_size": 16, "val_batch_size": 9},
    "whole splits": {"batch_size": 1_000},
    "early stopping": {"batch_size": 16, "early_stopping": nestor.EarlyStopping(fraction=0.3)},
    "folds": {"batch_size": 8, "folds": nestor.Folds(3), "early_stopping": nestor.EarlyStopping()},
}


def trajectory(splits: dict[str, Any], config: dict[str, Any], kind: Any = None) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    losses = lambda outputs, batch: F.cross_entropy(outputs, batch["y"], reduction="none")
    problem = Problem(model, kind or L2(model), losses, losses_mean, **splits)
    steps = optimize(problem.bilevel(), problem.data, Config(n_steps=4, inner_steps=2, **config))
    return [step.record() | {"seconds": None} for step in steps]


def losses_mean(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(outputs, batch["y"])


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_trajectory_by_reference_is_that_of_the_same_tensors_bit_for_bit(writer, config, tmp_path):
    splits = {name: draw(n, seed) for seed, (name, n) in enumerate({"train": 40, "val": 30, "test": 12}.items())}
    refs = {name: WRITERS[writer](columns, tmp_path / name) for name, columns in splits.items()}
    assert trajectory(refs, CONFIGS[config]) == trajectory(splits, CONFIGS[config])


DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool".split()


@pytest.fixture
def every_dtype(tmp_path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Columns of all dtypes that safetensors has, in memory and mapped; none begins at a multiple of eight bytes."""
    numbers = torch.arange(30).reshape(10, 3)
    tensors = {name: (numbers % 2 == 0 if name == "bool" else numbers.to(getattr(torch, name))) for name in DTYPES}
    path = tmp_path / "all.safetensors"
    path.write_bytes(shifted(safetensors.torch.save(tensors)))
    data = Data.of(train=nestor.data.ref(path.as_uri()), val=tensors)
    return safetensors.torch.load(path.read_bytes()), data.train


def shifted(data: bytes) -> bytes:
    """The same tensors behind one of a single row of three bytes."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length])).encode()
    header += b" " * ((3 - len(header)) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def test_rows_of_every_dtype_are_those_of_the_tensor_wherever_it_lies_in_the_file(every_dtype):
    tensors, columns = every_dtype
    index, mask = torch.tensor([7, 0, 7, 3]), torch.arange(10) > 6
    for name, values in tensors.items():
        column = columns[name]
        assert isinstance(column, MappedColumn)
        assert (column.shape, column.dtype, column.device, len(column)) == (
            values.shape,
            values.dtype,
            values.device,
            10,
        )
        for of in (lambda c: c.index_select(0, index), lambda c: c[2:7], lambda c: c[-4], lambda c: c[mask]):
            rows = of(column)
            assert type(rows) is Tensor
            assert rows.dtype == values.dtype
            assert torch.equal(rows.view(torch.uint8), of(values).contiguous().view(torch.uint8))


@pytest.mark.parametrize(
    "operation",
    [
        lambda column: column + 1,
        lambda column: column.clone(),
        lambda column: column.isfinite(),
        lambda column: torch.cat([column, column]),
        lambda column: torch.cat([torch.zeros(1, 3), column]),
        lambda column: column.reshape(-1),
        lambda column: column.sum(),
        lambda column: column[:, 0],
        lambda column: column.index_select(1, torch.tensor([0])),
    ],
)
def test_what_would_read_all_of_a_column_is_refused_with_a_sentence(every_dtype, operation):
    with pytest.raises(ColumnNotInMemory, match="is read in batches and does not support"):
        operation(every_dtype[1]["float32"])


def test_a_column_on_another_device_or_of_another_dtype_is_converted_row_by_row(every_dtype):
    column = every_dtype[1]["float32"]
    assert torch.equal(column.double()[:2], every_dtype[0]["float32"].double()[:2])
    moved = column.to("meta")
    assert (moved.device.type, moved[:2].device.type) == ("meta", "meta")


def test_selected_and_joined_rows_are_read_when_they_are_taken(every_dtype):
    tensors, columns = every_dtype
    first, second = tensors["float32"], torch.rand(4, 3)
    both = joined(rows_at(columns["float32"], torch.tensor([9, 1, 5])), second)
    expected = torch.cat([first[[9, 1, 5]], second])
    assert isinstance(both, MappedColumn)
    assert torch.equal(both[:], expected)
    assert torch.equal(both[torch.tensor([6, 0, 3, 2])], expected[[6, 0, 3, 2]])


def test_a_scan_reads_pieces_and_finds_what_one_over_all_rows_does(tmp_path, monkeypatch):
    numbers = torch.randint(-50, 50, (1_000, 3), generator=torch.Generator().manual_seed(0))
    floats = numbers.double()
    floats[777, 1] = float("nan")
    safetensors.torch.save_file({"n": numbers, "f": floats}, tmp_path / "a.safetensors")
    data = Data.of(train=nestor.data.ref((tmp_path / "a.safetensors").as_uri()), val={"n": numbers}).train
    assert scan(data["f"]).not_finite == 777
    monkeypatch.setattr(mapped, "SCAN_BYTES", 700)
    monkeypatch.setattr(mapped, "_scans", {})
    assert scan(data["f"]) == scan(floats)
    found = scan(data["n"])
    assert found == scan(numbers)
    assert found.lowest is not None
    assert int(numbers[found.lowest].min()) == int(numbers.min())
    assert found.highest is not None
    assert int(numbers[found.highest].max()) == int(numbers.max())


class Largest(TorchDispatchMode):
    """The size in bytes of the largest tensor that was made, views included."""

    nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.nbytes = max(self.nbytes, made.nbytes if isinstance(made, Tensor) else 0)
        return made


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_a_scan_makes_no_tensor_larger_than_the_piece_that_it_looks_at(monkeypatch, dtype):
    monkeypatch.setattr(mapped, "SCAN_BYTES", 800)
    column = torch.zeros(1000, dtype=dtype)
    column[777] = 1
    with Largest() as largest:
        assert scan(column) == Scan(lowest=0, highest=777)
    assert largest.nbytes == 800


@pytest.mark.parametrize("kind", [ClassWeights(3), LabelSmoothing(3), LabelCorrection(draw(40, 0)["y"], 3)])
def test_kinds_that_read_the_labels_read_those_of_a_file(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(mapped, "SCAN_BYTES", 64)
    splits = {"train": draw(40, 0), "val": draw(30, 1)}
    refs = {name: as_safetensors(columns, tmp_path / name) for name, columns in splits.items()}
    assert trajectory(refs, {"batch_size": 16}, kind) == trajectory(splits, {"batch_size": 16}, kind)


def test_a_batch_and_an_evaluation_read_no_more_rows_than_they_have(tmp_path, monkeypatch):
    train, val = draw(3_000, 0), draw(2_500, 1)
    refs = {"train": as_safetensors(train, tmp_path / "train"), "val": as_safetensors(val, tmp_path / "val")}
    read: list[int] = []
    take, span = mapped.FileRows.take, mapped.FileRows.span
    monkeypatch.setattr(mapped.FileRows, "take", lambda rows, index: (read.append(len(index)), take(rows, index))[1])
    monkeypatch.setattr(mapped.FileRows, "span", lambda rows, a, b: (read.append(b - a), span(rows, a, b))[1])
    config = {"batch_size": 10, "val_batch_size": 20, "evaluate_every": 1}
    trajectory(refs | {"test": refs["val"]}, config | {"early_stopping": nestor.EarlyStopping()})
    assert set(read) == {10, 20, 500, 1_024, 452}
