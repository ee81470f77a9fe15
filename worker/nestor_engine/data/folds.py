"""How examples are divided: into what is trained on, what steers the hyperparameters, and what is kept from both.

With as many hyperparameters as weights, the validation examples are fitted like training examples, and their loss says
nothing any more. Two remedies: examples take turns in steering (`Folds`), and the tuning ends when examples that steer
nothing say so (`EarlyStopping`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nestor.errors import ConfigInvalid, HoldOutEmpty, SplitsDiffer, TooFewExamples
from nestor_engine.data.splits import Data, View, size_of
from nestor_engine.objective import Tensors
from nestor_engine.tensors.random import derive_seed


@dataclass(frozen=True)
class Folds:
    """Cross-validation inside one training: training and validation examples are pooled and divided anew.

    Each of `count` equal parts has weights of its own, which are trained on the other parts and never see it; the
    hyperparameters are common to all. An outer step is one part's: its weights take their inner steps, and the
    hypergradient is that of its loss. Then it is the next part's turn. So an outer step costs what it does without
    folds, each part's weights take a `count`-th of the inner steps, and weights, buffers and slots are kept `count`
    times. Weights that went from part to part instead would have learned each part before they are judged by it.

    Attributes:
        count: parts, at least 2.
        every: outer steps until the next part's turn.
    """

    count: int = 5
    every: int = 1

    def __post_init__(self) -> None:
        for name, least in (("count", 2), ("every", 1)):
            if getattr(self, name) < least:
                raise ConfigInvalid(reason=f"Folds({name}={getattr(self, name)}): it must be at least {least}.")

    def turn(self, number: int) -> int:
        """Whose turn outer step `number` is; from 0. Before the first step it is the first one's."""
        return max(0, number - 1) // self.every % self.count


@dataclass(frozen=True)
class EarlyStopping:
    """End the tuning when the loss on held-out validation examples, which steer nothing, no longer improves.

    Attributes:
        patience: outer steps without a new lowest loss after which it ends.
        share: of the validation examples that are held out, drawn by the seed.
        least_steps: outer steps before which it does not end.
    """

    patience: int = 20
    share: float = 0.2
    least_steps: int = 0

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ConfigInvalid(reason=f"EarlyStopping(patience={self.patience}): it must be at least 1.")
        if not 0 < self.share < 1:
            raise ConfigInvalid(reason=f"EarlyStopping(share={self.share}): it must lie between 0 and 1.")
        if self.least_steps < 0:
            raise ConfigInvalid(reason=f"EarlyStopping(least_steps={self.least_steps}): it must be at least 0.")

    def is_due(self, step: int, waited: int) -> bool:
        """Whether to end after outer step `step`, `waited` steps after the lowest loss."""
        return waited >= self.patience and step >= self.least_steps


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
            held, steering = _divided(data.val, stopping.share, derive_seed(seed, "held out"))
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


def _divided(columns: Tensors, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """The positions of a share of the examples, and of the others; each in order."""
    n = size_of(columns)
    taken = round(share * n)
    if not 0 < taken < n:
        raise HoldOutEmpty(option=f"EarlyStopping(share={share:g})", n=n, taken=taken)
    order = _shuffled(n, seed).to(next(iter(columns.values())).device)
    return order[:taken].sort().values, order[taken:].sort().values


def _pooled(train: View, val: View) -> Tensors:
    """Training examples, and behind them those of the validation data."""
    first, second = train.columns, val.columns
    if _form(first) != _form(second):
        raise SplitsDiffer(train=_told(first), val=_told(second))
    rest = val.all()
    return {name: torch.cat([values, rest[name]]) for name, values in first.items()}


def _shuffled(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed), device="cpu")


def _told(columns: Tensors) -> str:
    return ", ".join(f"{name} {tuple(values.shape[1:])} {values.dtype}" for name, values in columns.items())


def _form(columns: Tensors) -> dict[str, object]:
    """What two sets of columns must share to be pooled."""
    return {name: (values.shape[1:], values.dtype) for name, values in columns.items()}
