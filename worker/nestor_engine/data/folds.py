"""Divide examples into those for training, those for validation, and those that are held out from both.

With as many hyperparameters as weights, the validation examples are fitted like training examples, and their loss is
no longer a measure. There are two remedies: the folds take turns as validation examples (`Folds`), and the loss on
held-out examples decides when the tuning ends (`EarlyStopping`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from nestor.errors import HoldOutEmpty, SplitsDiffer, TooFewExamples
from nestor.options import EarlyStopping, Folds
from nestor_engine.data.mapped import joined, rows_at
from nestor_engine.data.splits import INDEX, Data, View, size_of
from nestor_engine.objective import Tensors
from nestor_engine.tensors.random import derive_seed


class Partition:
    """The examples of each fold, and the held-out ones. Without `folds` there is one fold, with the given splits.

    Attributes:
        folds: the number of folds.
        held_out: columns, with their positions in the validation data as index; None without early stopping.
    """

    def __init__(
        self, data: Data, folds: Folds | None, stopping: EarlyStopping | None, seed: int, stand_in: int | None = None
    ) -> None:
        """
        Args:
            stand_in: train on the validation examples, too, each with the position of this training example; None:
                they do not train.

        Raises:
            ProblemInvalid: too few examples to divide, or training and validation examples of different columns.
        """
        self._train, self._val = View(data.train), View(data.val)
        self.held_out: Tensors | None = None
        if stopping is not None:
            held, steering = _divided(data.val, stopping.fraction, derive_seed(seed, "held out"))
            self.held_out = _taken(data.val, held)
            self._val = View(data.val, steering)
        if stand_in is not None:
            pool, n = _pooled(self._train, self._val), len(self._train)
            numbers = torch.arange(size_of(pool), device=self._train.device)
            self._train = View(pool, numbers=numbers.where(numbers < n, stand_in))
        self.folds = 1
        if folds is not None:
            self.folds = folds.count
            self._pool = _pooled(self._train, self._val)
            self._order = _shuffled(size_of(self._pool), derive_seed(seed, "folds")).to(self._val.device)
            if len(self._order) < self.folds:
                raise TooFewExamples(
                    option=f"Folds({self.folds})", needed=self.folds, what="examples", n=len(self._order)
                )

    def views(self, fold: int) -> tuple[View, View]:
        """Training and validation examples of `fold`. Their numbers are the same for all folds."""
        if self.folds == 1:
            return self._train, self._val
        size = len(self._order) // self.folds  # the remainder is always training data
        part = slice(fold * size, (fold + 1) * size)
        others = torch.cat([self._order[: part.start], self._order[part.stop :]])
        return View(self._pool, others), View(self._pool, self._order[part])

    def validation(self, fold: int) -> Tensors:
        """The columns of all validation examples of `fold`, as `held_out`; mapped ones are not read."""
        view = self.views(fold)[1]
        return view.columns if view.positions is None else _taken(view.columns, view.positions)


def _taken(columns: Tensors, positions: Tensor) -> Tensors:
    return {name: rows_at(values, positions) for name, values in columns.items()} | {INDEX: positions}


def _divided(columns: Tensors, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """The positions of a fraction of the examples, and of the others; each in order."""
    n = size_of(columns)
    taken = round(fraction * n)
    if not 0 < taken < n:
        raise HoldOutEmpty(option=f"EarlyStopping(fraction={fraction:g})", n=n, taken=taken)
    order = _shuffled(n, seed).to(next(iter(columns.values())).device)
    return order[:taken].sort().values, order[taken:].sort().values


def _pooled(train: View, val: View) -> Tensors:
    """Training examples, and behind them those of the validation data."""
    first, second = train.columns, val.columns
    if _form(first) != _form(second):
        raise SplitsDiffer(train=_columns_of(first), val=_columns_of(second))
    rest = val.all()
    return {name: joined(values, rest[name]) for name, values in first.items()}


def _shuffled(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed), device="cpu")


def _columns_of(columns: Tensors) -> str:
    return ", ".join(f"{name} {tuple(values.shape[1:])} {values.dtype}" for name, values in columns.items())


def _form(columns: Tensors) -> dict[str, object]:
    """What two sets of columns must share to be pooled."""
    return {name: (values.shape[1:], values.dtype) for name, values in columns.items()}
