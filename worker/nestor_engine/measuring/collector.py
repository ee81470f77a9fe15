"""Measure functions of outputs on examples that come in chunks, as on all of them at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from nestor.errors import OutputNotJoinable
from nestor_engine.data.mapped import MappedColumn
from nestor_engine.data.splits import INDEX
from nestor_engine.distributed import Share
from nestor_engine.measuring.joining import joined
from nestor_engine.measuring.reads import Reads
from nestor_engine.measuring.results import Measured, single
from nestor_engine.objective import Batch, PyTree, Tensors

Metric = Callable[[PyTree, Tensors, Batch], Measured]


class Collector:
    """Collects the metrics of a set of examples.

    A metric that returns (sum, weight) is added up. Any other is computed at the end on the outputs of all examples;
    until then those tensors are kept that it reads.

    Args:
        metrics: name → function of (outputs, values, batch).
        share: this process's part of the examples.
        columns: those of all examples; None if this process has one chunk, whose columns are kept.
    """

    def __init__(
        self, metrics: Mapping[str, Metric], values: Tensors, share: Share, columns: Batch | None = None
    ) -> None:
        self._metrics, self._values, self._share, self._columns = metrics, values, share, columns
        self._found: dict[str, float] = {}
        self._totals: dict[str, tuple[Tensor, Tensor]] = {}  # of metrics that return pairs, in double precision
        self._kept: _Kept | None = None
        self._begun = False

    def add(self, outputs: PyTree, batch: Batch) -> None:
        """Add the next chunk of this process's examples."""
        n = len(batch[INDEX])
        if not self._begun:
            self._begun = True
            if self._share.group.size == 1 and (self._columns is None or n == len(self._columns[INDEX])):
                self._found = self._on(outputs, batch, list(self._metrics))
                return
            self._begin(outputs, batch)
        for name, (total, weight) in self._totals.items():
            value = self._metrics[name](outputs, self._values, batch)
            added = value if isinstance(value, tuple) else (value * n, torch.tensor(n))
            self._totals[name] = total + added[0].to(total), weight + added[1].to(weight)
        if self._kept is not None:
            self._kept.add(outputs, batch if self._columns is None else {}, n)

    def results(self) -> dict[str, float]:
        """Each metric on all examples, equal on all processes.

        Raises:
            OutputNotJoinable: a metric reads an output that the chunks do not have in one form.
        """
        totals = {name: tuple(map(self._share.total, pair)) for name, pair in self._totals.items()}
        found = self._found | {name: float(total / weight) for name, (total, weight) in totals.items()}
        if self._kept is not None:
            outputs, batch = self._kept.all(self._share)
            batch = batch if self._columns is None else self._kept.in_memory(self._columns)
            found |= self._on(outputs, batch, [name for name in self._metrics if name not in totals])
        return {name: found[name] for name in self._metrics}

    def _on(self, outputs: PyTree, batch: Batch, names: list[str]) -> dict[str, float]:
        return {name: float(single(self._metrics[name](outputs, self._values, batch))) for name in names}

    def _begin(self, outputs: PyTree, batch: Batch) -> None:
        """Find out on the first chunk what each metric returns and reads."""
        leaves = [*pytree.tree_leaves(outputs), *batch.values()]
        flags: list[bool] = []
        for metric in self._metrics.values():
            value: Measured | None = None
            # A metric may fail on a chunk, for example one without a class. Then it is computed on everything.
            with Reads() as reads, contextlib.suppress(Exception):
                value = metric(outputs, self._values, batch)
            flags += [not isinstance(value, tuple), *(value is None or reads.has_seen(leaf) for leaf in leaves)]
        rest = iter(self._share.group.any(flags))  # every process must keep the same
        read_by: list[list[str]] = [[] for _ in leaves]
        for name in self._metrics:
            is_exact, *seen = [next(rest) for _ in range(1 + len(leaves))]
            if not is_exact:
                zero = torch.zeros((), dtype=torch.float64, device=self._share.group.device)
                self._totals[name] = zero, zero
            for readers, is_read in zip(read_by, seen, strict=True):
                readers += [name] if is_exact and is_read else []
        if len(self._totals) < len(self._metrics):
            kept = batch if self._columns is None else {}
            columns = {
                name for name, readers in zip(batch, read_by[len(leaves) - len(batch) :], strict=True) if readers
            }
            self._kept = _Kept.of(outputs, kept, read_by, self._share.n, frozenset(columns))


@dataclass
class _Kept:
    """What is kept of the chunks for metrics that need all outputs at once.

    Attributes:
        form: the tree of outputs and columns.
        others: number of a leaf → what stands for it where no metric reads it; reading it raises an error.
        parts: number of a leaf → its tensors.
        readers: number of a leaf → the metrics that read it.
        columns: the names of the columns that a metric reads.
        sizes: the number of examples in each chunk.
    """

    form: pytree.TreeSpec
    others: dict[int, Any]
    parts: dict[int, list[Tensor]]
    readers: list[list[str]]
    columns: frozenset[str]
    sizes: list[int] = field(default_factory=list[int])

    @staticmethod
    def of(outputs: PyTree, batch: Batch, readers: list[list[str]], n: int, columns: frozenset[str]) -> _Kept:
        leaves, form = pytree.tree_flatten((outputs, batch))
        others: dict[int, Any] = {}
        for number, leaf in enumerate(leaves):
            if not isinstance(leaf, Tensor):
                others[number] = leaf
            elif not readers[number]:
                others[number] = torch.empty((n, *leaf.shape[1:]) if leaf.ndim else (), dtype=leaf.dtype, device="meta")
        parts: dict[int, list[Tensor]] = {number: [] for number in range(len(leaves)) if number not in others}
        return _Kept(form, others, parts, readers, columns)

    def add(self, outputs: PyTree, batch: Batch, n: int) -> None:
        """Keep what a metric reads of a chunk of `n` examples."""
        leaves = pytree.tree_leaves((outputs, batch))
        for number, parts in self.parts.items():
            parts.append(leaves[number])
        self.sizes.append(n)

    def all(self, share: Share) -> tuple[PyTree, Batch]:
        """The outputs and the kept columns of all examples.

        Raises:
            OutputNotJoinable: as `Collector.results`.
        """
        leaves: dict[int, Any] = dict(self.others)
        for number, parts in self.parts.items():
            leaves[number] = joined(parts, self.sizes, share)
            if leaves[number] is None:
                shapes = " and ".join(str(tuple(shape)) for shape in dict.fromkeys(part.shape for part in parts))
                raise OutputNotJoinable(metric=self.readers[number][0], shapes=shapes)
            parts.clear()  # the largest memory of an evaluation
        return pytree.tree_unflatten([leaves[number] for number in sorted(leaves)], self.form)

    def in_memory(self, columns: Batch) -> Batch:
        """`columns`, with those in memory that a metric reads."""
        return {
            name: values[: len(values)] if name in self.columns and isinstance(values, MappedColumn) else values
            for name, values in columns.items()
        }
