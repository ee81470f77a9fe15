"""Columns that stay in a file: tensors whose rows are read when they are taken.

A `MappedColumn` is a tensor for everything that asks for its shape, dtype and device, and for taking rows. Every other
operation would read all of it, and raises an error. So splits, batches, folds and evaluations treat it as any column.
"""

# pyright: reportUnknownMemberType=false, reportPrivateUsage=false
# (torch does not type from_numpy, and its public documentation names _make_wrapper_subclass for this purpose)

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from nestor.data import Ref
from nestor.errors import ColumnNotInMemory

SCAN_BYTES = 2**24  # of a column in memory at a time, where all of it is looked through


class Rows(Protocol):
    """Rows of one shape and dtype, on the CPU."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of rows, then the shape of one."""
        ...

    def take(self, index: Tensor) -> Tensor:
        """The rows with the numbers `index`, int64 of shape (B,), as a new tensor."""
        ...

    def span(self, start: int, stop: int) -> Tensor:
        """The rows from `start` to before `stop`, as a new tensor."""
        ...


@dataclass(frozen=True)
class FileRows:
    """Rows of a memory-mapped array. `is_bfloat16`: the array holds the bits of bfloat16 as int16.

    Attributes:
        key: names the contents of the array for as long as this process runs.
    """

    array: NDArray[Any]
    is_bfloat16: bool
    key: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of rows, then the shape of one."""
        return self.array.shape

    def take(self, index: Tensor) -> Tensor:
        """The rows with the numbers `index`."""
        # Indexed, because numpy.take copies the whole of an array that is unaligned or of foreign byte order.
        return self._tensor(self.array[index.numpy()])

    def span(self, start: int, stop: int) -> Tensor:
        """The rows from `start` to before `stop`."""
        return self._tensor(self.array[start:stop].copy())

    def _tensor(self, rows: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(rows.astype(rows.dtype.newbyteorder("="), copy=False))
        return tensor.view(torch.bfloat16) if self.is_bfloat16 else tensor


@dataclass(frozen=True)
class _Memory:
    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def take(self, index: Tensor) -> Tensor:
        return self.tensor.index_select(0, index.to(self.tensor.device)).cpu()

    def span(self, start: int, stop: int) -> Tensor:
        return self.tensor[start:stop].cpu()


@dataclass(frozen=True)
class _Selected:
    """The rows of `rows` at `positions`."""

    rows: Rows
    positions: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.positions), *self.rows.shape[1:])

    def take(self, index: Tensor) -> Tensor:
        return self.rows.take(self.positions[index])

    def span(self, start: int, stop: int) -> Tensor:
        return self.rows.take(self.positions[start:stop])


@dataclass(frozen=True)
class _Joined:
    """The rows of all `parts`, one behind the other, as `dtype`."""

    parts: tuple[Rows, ...]
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    def take(self, index: Tensor) -> Tensor:
        ends = list(accumulate(part.shape[0] for part in self.parts))
        owner = torch.bucketize(index, torch.tensor(ends), right=True)
        taken: Tensor | None = None
        for number, part in enumerate(self.parts):
            of_part = owner == number
            start = ends[number] - part.shape[0]
            rows = part.take(index[of_part] - start).to(self.dtype)
            if taken is None:
                taken = rows.new_empty((len(index), *rows.shape[1:]))
            taken[of_part] = rows
        assert taken is not None
        return taken

    def span(self, start: int, stop: int) -> Tensor:
        return self.take(torch.arange(start, stop))


class MappedColumn(Tensor):
    """A column whose rows are read from a file when they are taken.

    Attributes:
        rows: where the rows come from.
        ref: what the user wrote; None for a column that was derived from others.
        source: the column's name in the file; "" in an .npy file.
    """

    rows: Rows
    ref: Ref | None
    source: str

    @staticmethod
    def __new__(
        cls: type[MappedColumn],
        rows: Rows,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        *,
        ref: Ref | None = None,
        source: str = "",
    ) -> MappedColumn:
        """A column of `rows`, which are converted to `dtype` and moved to `device` when they are taken."""
        made: Any = Tensor._make_wrapper_subclass(cls, rows.shape, dtype=dtype, device=torch.device(device))
        return made

    def __init__(
        self,
        rows: Rows,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        *,
        ref: Ref | None = None,
        source: str = "",
    ) -> None:
        del dtype, device  # of the tensor itself
        self.rows, self.ref, self.source = rows, ref, source

    def __repr__(self, *, tensor_contents: object = None) -> str:
        del tensor_contents
        where = "" if self.ref is None else f", uri={self.ref.uri!r}"
        return f"MappedColumn(shape={tuple(self.shape)}, dtype={self.dtype}{where})"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Take rows, or make a column of the same rows; every other operation raises ColumnNotInMemory."""
        operation = _OPERATIONS.get(func)
        if operation is None or not isinstance(args[0], MappedColumn):
            raise ColumnNotInMemory(operation=str(func).removeprefix("aten.").partition(".")[0])
        return operation(*args, **(kwargs or {}))

    def at(self, positions: Tensor) -> MappedColumn:
        """A column of the rows at `positions`, of which none is read yet."""
        return MappedColumn(_Selected(self.rows, positions.cpu()), self.dtype, self.device)

    def _delivered(self, rows: Tensor) -> Tensor:
        return rows.to(self.device, self.dtype)


def _take(column: MappedColumn, dim: int, index: Tensor) -> Tensor:
    if dim not in (0, -column.ndim):
        raise ColumnNotInMemory(operation=f"index_select along dimension {dim}")
    return column._delivered(column.rows.take(index.cpu()))


def _index(column: MappedColumn, indices: Sequence[Tensor | None]) -> Tensor:
    first = indices[0]
    if len(indices) != 1 or first is None or first.ndim != 1:
        raise ColumnNotInMemory(operation="an index other than of rows")
    return _take(column, 0, first.nonzero().squeeze(1) if first.dtype == torch.bool else first.long())


def _slice(
    column: MappedColumn, dim: int = 0, start: int | None = None, stop: int | None = None, step: int = 1
) -> Tensor:
    if dim not in (0, -column.ndim):
        raise ColumnNotInMemory(operation=f"a slice of dimension {dim}")
    first, last, step = slice(start, stop, step).indices(len(column))
    if step != 1:
        return _take(column, 0, torch.arange(first, last, step))
    return column._delivered(column.rows.span(first, max(first, last)))


def _select(column: MappedColumn, dim: int, index: int) -> Tensor:
    return _take(column, dim, torch.tensor([index % len(column)]))[0]


def _same(column: MappedColumn) -> MappedColumn:
    return MappedColumn(column.rows, column.dtype, column.device, ref=column.ref, source=column.source)


def _to(
    column: MappedColumn, *, dtype: torch.dtype | None = None, device: torch.device | None = None, **_: Any
) -> MappedColumn:
    return MappedColumn(
        column.rows, dtype or column.dtype, device or column.device, ref=column.ref, source=column.source
    )


_ATEN = torch.ops.aten
_OPERATIONS: dict[Any, Callable[..., Tensor]] = {
    _ATEN.index_select.default: _take,
    _ATEN.index.Tensor: _index,
    _ATEN.slice.Tensor: _slice,
    _ATEN.select.int: _select,
    _ATEN.detach.default: _same,
    _ATEN.alias.default: _same,
    _ATEN._to_copy.default: _to,
}


def rows_at(column: Tensor, positions: Tensor) -> Tensor:
    """The rows at `positions`; of a mapped column without reading them."""
    return column.at(positions) if isinstance(column, MappedColumn) else column.index_select(0, positions)


def joined(first: Tensor, second: Tensor) -> Tensor:
    """The rows of `first`, and behind them those of `second`; of mapped columns without reading them."""
    if not isinstance(first, MappedColumn) and not isinstance(second, MappedColumn):
        return torch.cat([first, second])
    parts: list[Rows] = [c.rows if isinstance(c, MappedColumn) else _Memory(c) for c in (first, second)]
    return MappedColumn(_Joined(tuple(parts), first.dtype), first.dtype, first.device)


# --- what needs all rows --------------------------------------------------------------------------


class Scan(NamedTuple):
    """What a look through all rows of a column found.

    Attributes:
        not_finite: the first row with NaN or infinity.
        lowest, highest: a row with the smallest and one with the largest number; None for floating-point columns.
    """

    not_finite: int | None = None
    lowest: int | None = None
    highest: int | None = None


# In place of types that have no amin or argmin.
_COMPARABLE = {torch.uint16: torch.int64, torch.uint32: torch.int64, torch.uint64: torch.int64, torch.bool: torch.uint8}
_scans: dict[tuple[str, torch.dtype], Scan] = {}


def scan(column: Tensor) -> Scan:
    """Look through all rows, of a mapped column a few megabytes at a time, and only once while the file is the same."""
    rows = column.rows if isinstance(column, MappedColumn) else None
    if not isinstance(rows, FileRows):
        return _scan(column)
    key = (rows.key, column.dtype)
    if key not in _scans:
        _scans[key] = _scan(column)
    return _scans[key]


def extremes(column: Tensor) -> tuple[int, int]:
    """The smallest and the largest number of a column of integers or booleans with at least one example."""
    found = scan(column)
    assert found.lowest is not None
    assert found.highest is not None
    return int(column[found.lowest].min()), int(column[found.highest].max())


def _scan(column: Tensor) -> Scan:
    if not column.ndim or not column.numel():
        return Scan()
    if column.is_complex():
        return Scan()
    if column.is_floating_point():
        for start, piece in pieces(column):
            if not piece.isfinite().all():
                return Scan(start + int((~piece.isfinite()).reshape(len(piece), -1).any(1).nonzero()[0]))
        return Scan()
    low = high = (0, 0)  # a number, and its row
    for start, piece in pieces(column):
        flat = piece.reshape(len(piece), -1)
        flat = flat.to(_COMPARABLE.get(flat.dtype, flat.dtype))
        least, most = flat.amin(1), flat.amax(1)  # not widened: of labels in one byte, int64 takes eight times the data
        lowest, highest = int(least.argmin()), int(most.argmax())
        if start == 0 or int(least[lowest]) < low[0]:
            low = int(least[lowest]), start + lowest
        if start == 0 or int(most[highest]) > high[0]:
            high = int(most[highest]), start + highest
    return Scan(lowest=low[1], highest=high[1])


def pieces(column: Tensor) -> Iterator[tuple[int, Tensor]]:
    """All rows in order, each piece with the number of its first row."""
    n = len(column)
    size = max(1, SCAN_BYTES * n // max(1, column.nbytes))
    for start in range(0, n, size):
        yield start, column[start : start + size]
