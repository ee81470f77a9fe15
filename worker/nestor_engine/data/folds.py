"""How examples are divided: into what is trained on, what steers the hyperparameters, and what is kept from both.

With as many hyperparameters as weights, the validation examples are fitted like training examples, and their loss says
nothing any more. Two remedies: examples take turns in steering (`Folds`), and the tuning ends when examples that steer
nothing say so (`EarlyStopping`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from nestor.errors import HoldOutEmpty, SplitsDiffer, TooFewExamples
from nestor.options import EarlyStopping, Folds
from nestor_engine.data.splits import Data, View, size_of
from nestor_engine.objective import Tensors
from nestor_engine.tensors.random import derive_seed


class Partition:
    """The examples of each fold, and those that are held out. Without folds there is one, of the splits as given.

    Attributes:
        folds: how many.
        held_out: columns; None where nothing is.
    """

    def __init__(self, data: Data, folds: Folds | None, stopping: EarlyStopping | None, seed: int) -> None:
        """
        Raises:
            ProblemInvalid: too few examples to divide, or training and validation examples of different columns.
        """
        self._train, self._val = View(data.train), View(data.val)
        self.held_out: Tensors | None = None
        if stopping is not None:
            held, steering = _divided(data.val, stopping.fraction, derive_seed(seed, "held out"))
            self.held_out = {name: values[held] for name, values in data.val.items()}
            self._val = View(data.val, steering)
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
        """What `fold` trains on, and what it is judged by. All folds have equally many of both."""
        if self.folds == 1:
            return self._train, self._val
        size = len(self._order) // self.folds  # a remainder is always trained on
        part = slice(fold * size, (fold + 1) * size)
        others = torch.cat([self._order[: part.start], self._order[part.stop :]])
        return View(self._pool, others), View(self._pool, self._order[part])


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
    return {name: torch.cat([values, rest[name]]) for name, values in first.items()}


def _shuffled(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed), device="cpu")


def _columns_of(columns: Tensors) -> str:
    return ", ".join(f"{name} {tuple(values.shape[1:])} {values.dtype}" for name, values in columns.items())


def _form(columns: Tensors) -> dict[str, object]:
    """What two sets of columns must share to be pooled."""
    return {name: (values.shape[1:], values.dtype) for name, values in columns.items()}
