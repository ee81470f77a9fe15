"""Data as columns, and batches as a pure function of (seed, number): nothing to checkpoint but a counter."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import safetensors.torch
import torch
from torch import Tensor

from nestor.program_format import INDEX as INDEX
from nestor_engine.data.columns import Columns as Columns
from nestor_engine.data.columns import columns_of, verified
from nestor_engine.data.mapped import MappedColumn, rows_at
from nestor_engine.distributed import ALONE, Group
from nestor_engine.objective import Batch, Tensors
from nestor_engine.tensors.random import derive_seed
from nestor_engine.tensors.serialization import SafetensorsFile


@dataclass(frozen=True)
class Data:
    """Training, validation and test examples; each split is a dict of equally long columns.

    The test split has no effect on the training: it is only evaluated.
    """

    train: Tensors
    val: Tensors
    test: Tensors | None = None

    @staticmethod
    def of(train: Columns, val: Columns, test: Columns | None = None, *, dtype: torch.dtype | None = None) -> Data:
        """From tuples (x, y), which become the columns `x` and `y`, dicts of columns, Datasets, or references.

        Args:
            dtype: see `columns_of`.

        Raises:
            DatasetInvalid: a split has another form, is empty, or has columns of different lengths; a reference cannot
                be read.
        """
        given = {"train": train, "val": val} | ({} if test is None else {"test": test})
        return Data(**{split: columns_of(split, columns, dtype) for split, columns in given.items()})

    @property
    def splits(self) -> dict[str, Tensors]:
        """ "train", "val" and, if there is one, "test" → columns."""
        return {"train": self.train, "val": self.val} | ({} if self.test is None else {"test": self.test})

    @property
    def sizes(self) -> dict[str, int]:
        """Examples in each split."""
        return {name: size_of(columns) for name, columns in self.splits.items()}

    def to(self, device: torch.device | str) -> Data:
        """The same examples with all columns on `device`."""
        return Data(**{s: {k: v.to(device) for k, v in columns.items()} for s, columns in self.splits.items()})

    def save(self) -> dict[str, SafetensorsFile]:
        """The columns in memory of each split that has some, as safetensors; they are not copied."""
        in_memory = {
            split: {name: values for name, values in columns.items() if not isinstance(values, MappedColumn)}
            for split, columns in self.splits.items()
        }
        return {split: SafetensorsFile(columns) for split, columns in in_memory.items() if columns}

    @property
    def mapped(self) -> dict[str, dict[str, MappedColumn]]:
        """Split → its columns by reference."""
        return {
            split: {name: values for name, values in columns.items() if isinstance(values, MappedColumn)}
            for split, columns in self.splits.items()
        }

    @staticmethod
    def load(
        blobs: Mapping[str, bytes | SafetensorsFile], mapped: dict[str, dict[str, MappedColumn]] | None = None
    ) -> Data:
        """The data that `save` wrote.

        Args:
            mapped: as `mapped`; the columns that it left out.

        Raises:
            DatasetInvalid: a split is empty, or has columns of different lengths.
        """
        splits: dict[str, Tensors] = {split: dict(columns) for split, columns in (mapped or {}).items()}
        for split, blob in blobs.items():
            splits[split] = splits.get(split, {}) | safetensors.torch.load(bytes(blob))
        return Data(**{split: verified(split, columns) for split, columns in splits.items()})


def size_of(columns: Tensors) -> int:
    """How many examples the columns hold."""
    return len(next(iter(columns.values())))


@dataclass(frozen=True)
class View:
    """Examples of a split, in order: those at `positions`, of shape (n,), or all of them.

    Attributes:
        numbers: what the column "index" says of each example, in place of its position.
    """

    columns: Tensors
    positions: Tensor | None = None
    numbers: Tensor | None = None

    def __len__(self) -> int:
        return size_of(self.columns) if self.positions is None else len(self.positions)

    @property
    def device(self) -> torch.device:
        """The device of the first column; all columns of a split are on one device."""
        return next(iter(self.columns.values())).device

    def all(self) -> Batch:
        """Every example. The columns of a whole split are not copied, and mapped ones are not read."""
        if self.positions is None:
            return self.columns | {INDEX: self._numbered(torch.arange(len(self), device=self.device))}
        at = self.positions
        return {name: rows_at(values, at) for name, values in self.columns.items()} | {INDEX: self._numbered(at)}

    def take(self, which: Tensor) -> Batch:
        """The examples with the numbers `which` in this view, shape (B,)."""
        index = which if self.positions is None else self.positions[which]
        taken = {name: values.index_select(0, index) for name, values in self.columns.items()}
        return taken | {INDEX: self._numbered(index)}

    def _numbered(self, at: Tensor) -> Tensor:
        return at if self.numbers is None else self.numbers[at]


class Batches:
    """Batch number k of endless passes over shuffled examples, as a function of (seed, k); of it, `share`'s part.

    Every epoch is one permutation. A remainder that does not fill a batch is left out, so that all batches
    have one shape. If there are at most `batch_size` examples, every batch has all of them, in their order.

    Attributes:
        examples: their number.
        per_pass: batches in one pass.
        seconds: wall time spent on gathering batches so far.
    """

    def __init__(self, examples: Tensors | View, batch_size: int | None, seed: int, group: Group = ALONE) -> None:
        self._view = examples if isinstance(examples, View) else View(examples)
        self.examples = n = len(self._view)
        self.batch_size = min(batch_size or n, n)
        self.share = group.share(self.batch_size)
        self._whole = self._view.all() if self.batch_size == n else None
        self.per_pass = n // self.batch_size
        self._seed = seed
        self.seconds = 0.0
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)  # (n,), of the current epoch

    def __getitem__(self, k: int) -> Batch:
        if self._whole is not None:
            return {name: values[self.share.part] for name, values in self._whole.items()}
        started = time.perf_counter()
        epoch, position = divmod(k, self.per_pass)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derive_seed(self._seed, "epoch", epoch))
            self._order = torch.randperm(len(self._view), generator=generator, device="cpu").to(self._view.device)
            self._epoch = epoch
        start = position * self.batch_size
        batch = self._view.take(self._order[start : start + self.batch_size][self.share.part])
        self.seconds += time.perf_counter() - started
        return batch


def chunks(columns: Tensors, size: int, part: slice) -> Iterator[Batch]:
    """The examples in `part`, in order, in batches of at most `size`. A column "index" takes the place of positions."""
    device = next(iter(columns.values())).device
    for start in range(part.start, part.stop, size):
        stop = min(start + size, part.stop)
        positions = {INDEX: torch.arange(start, stop, device=device)}
        yield positions | {name: values[start:stop] for name, values in columns.items()}
