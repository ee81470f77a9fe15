"""Columns from a Dataset, each of whose items is read once."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (a Dataset's items may be anything)

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from nestor.errors import (
    ExamplesDiffer,
    ItemFailed,
    ItemRandom,
    ItemsDiffer,
    NestorError,
    SplitEmpty,
    SplitInvalid,
    SplitTooLarge,
)
from nestor_engine.data.arrays import Place, described
from nestor_engine.data.forms import called, columns_in, columns_in_item, is_value
from nestor_engine.data.values import tensor_of
from nestor_engine.objective import Tensors

SHOW_AFTER = 2.0  # seconds of reading, before a progress bar appears
TWICE = 8  # items that are read twice, to find random transforms
_COLUMNS = "Pass its tensors as a tuple (x, y) or a dict; several inputs are ((a, b), y)."


def is_dataset(given: Any) -> bool:
    """Whether `given` is read item by item: a Dataset, what has its methods, or a list of items."""
    if isinstance(given, Dataset | DataLoader):
        return True
    if isinstance(given, list):
        items = cast("list[Any]", given)
        return len(items) > 0 and (
            all(isinstance(item, dict) for item in items)
            or (len(items) != 2 and all(isinstance(item, tuple | dict) for item in items))
        )
    if isinstance(given, str | bytes | tuple | dict) or is_value(given):
        return False
    return hasattr(given, "__getitem__") and hasattr(given, "__len__") and not hasattr(given, "keys")


def columns_read(split: str, dataset: Any, dtype: torch.dtype) -> dict[str, Any]:
    """The columns of a Dataset, each item of which is read once; the tensors of a TensorDataset as they are.

    Args:
        dtype: see `tensor_of`.

    Raises:
        SplitInvalid: it has no items by number.
        SplitTooLarge: its columns do not fit into the memory that is free.
        ItemFailed, ItemRandom, ItemsDiffer, ExamplesDiffer: an item does not fit.
    """
    if isinstance(dataset, DataLoader):
        size = cast("DataLoader[Any]", dataset).batch_size
        advice = "Nestor draws its own batches: pass loader.dataset" + (
            f", and batch_size={size} to study.optimize." if size else ", and batch_size=… to study.optimize."
        )
        raise SplitInvalid(split=split, given="a DataLoader", advice=advice)
    if isinstance(dataset, IterableDataset):
        advice = "Its items have no numbers. Pass list(dataset) if they fit into memory, or columns."
        raise SplitInvalid(split=split, given="an IterableDataset", advice=advice)
    held = _held(split, dataset)
    if held is not None:
        if len(held) == 1:
            return {"x": held[0]}
        if len(held) != 2:
            raise SplitInvalid(split=split, given=f"a TensorDataset of {len(held)} tensors", advice=_COLUMNS)
        return columns_in(split, held)
    return _Reading(split, dataset, dtype).columns()


class _Reading:
    """One Dataset, read item by item into tensors that hold a row for each."""

    def __init__(self, split: str, dataset: Any, dtype: torch.dtype) -> None:
        self._split, self._dataset, self._dtype = split, dataset, dtype
        try:
            self._size = len(dataset)
        except TypeError as error:
            name = f"{called(dataset)} without a length"
            raise SplitInvalid(split=split, given=name, advice="Give it a __len__, or pass columns.") from error

    def columns(self) -> Tensors:
        """Path → tensor, shape (items, …)."""
        from tqdm.auto import tqdm

        if self._size == 0:
            raise SplitEmpty(split=self._split)
        first = _copied(self._row(0))
        self._expect_the_same_again(first)
        nbytes = self._size * sum(values.nbytes for values in first.values())
        size, free = _in_words(nbytes), _free_memory()
        if free is not None and nbytes > free:
            name = type(self._dataset).__name__
            raise SplitTooLarge(split=self._split, given=name, n=self._size, size=size, free=_in_words(free))
        found = {name: row.new_empty((self._size, *row.shape)) for name, row in first.items()}
        what = f"reading {size} of {self._split} data"
        # TQDM_DISABLE=1 turns this bar off, like every other.
        for number in tqdm(range(self._size), desc=what, unit="item", delay=SHOW_AFTER, leave=False):
            for name, row in self._row(number, first).items():
                found[name][number] = row
        return found

    def _row(self, number: int, first: Tensors | None = None) -> Tensors:
        """The columns of one item, which must be like those of the first one."""
        try:
            item = self._dataset[number]
        except NestorError:
            raise
        except Exception as error:
            sentence = f"{type(error).__name__}: {error}".split("\n")[0].rstrip(".")
            name = type(self._dataset).__name__
            raise ItemFailed(split=self._split, item=number, error=sentence, given=name) from error
        row = {
            name: tensor_of(values, Place(self._split, name, entry=f"item {number}"), self._dtype)
            for name, values in columns_in_item(self._split, item).items()
        }
        if first is not None and row.keys() != first.keys():
            raise ItemsDiffer(split=self._split, item=number, columns=list(row), first=list(first))
        for name, values in row.items():
            if first is not None and (values.shape, values.dtype) != (first[name].shape, first[name].dtype):
                raise ExamplesDiffer(
                    entry=f"Item {number}",
                    column=name,
                    split=self._split,
                    shape=described(values),
                    first=described(first[name]),
                )
        return row

    def _expect_the_same_again(self, first: Tensors) -> None:
        """Check that a few items do not change between two reads, as they do under a random transform."""
        for number in range(min(TWICE, self._size)):
            before = _copied(self._row(number, first))
            for name, values in self._row(number, first).items():
                if not torch.equal(values.nan_to_num(), before[name].nan_to_num()):
                    raise ItemRandom(split=self._split, item=number, column=name)


def _copied(row: Tensors) -> Tensors:
    """For a Dataset that returns one tensor again and again, with other contents."""
    return {name: values.clone() for name, values in row.items()}


def _held(split: str, dataset: Any) -> tuple[Tensor, ...] | None:
    """The tensors of a TensorDataset, or of a Subset of one, without reading items; None for other Datasets."""
    if type(dataset) is TensorDataset:
        return dataset.tensors
    if type(dataset) is not Subset:  # a subclass may return something else
        return None
    subset = cast("Subset[Any]", dataset)
    held = _held(split, subset.dataset)
    if held is None:
        return None
    chosen = torch.as_tensor(subset.indices, dtype=torch.int64)
    try:
        return tuple(values[chosen.to(values.device)] for values in held)
    except IndexError as error:
        outside = (chosen < -len(held[0])) | (chosen >= len(held[0]))
        number = int(outside.int().argmax())
        sentence = f"the Subset's index {int(chosen[number])} is out of range"
        raise ItemFailed(split=split, item=number, error=sentence, given="Subset") from error


def _in_words(nbytes: int) -> str:
    return f"{nbytes / 1e9:,.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:,.1f} MB"


def _free_memory() -> int | None:
    """Bytes of memory that the system can give to a process; None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None
