"""A task: data, a network, what is tuned about its training, and what rivals search in place of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import nestor
from nestor_engine.hparams import Hyperparameters

Columns = dict[str, Tensor]
Loss = Callable[[Any, Columns], Any]


@dataclass(frozen=True)
class Splits:
    """Columns of each split, the same ones in all three."""

    train: Columns
    val: Columns
    test: Columns

    @property
    def both(self) -> Columns:
        """Training examples, and behind them those of the validation data."""
        return {name: torch.cat([values, self.val[name]]) for name, values in self.train.items()}

    def training_on(self, train: Columns) -> Splits:
        """The same splits with other training examples."""
        return replace(self, train=train)


@dataclass(frozen=True)
class Objective:
    """What is trained for, and the score on test data: the larger the better."""

    train_loss: Loss
    val_loss: Loss
    score: Loss


@dataclass(frozen=True)
class Knob:
    """One number that rivals search.

    Attributes:
        default: its value where it is not searched, which is also where tuning by hypergradients starts.
        kind: the hyperparameters that hold this value.
        log: whether samplers draw its logarithm.
    """

    name: str
    low: float
    high: float
    default: float
    kind: Callable[[nn.Module, Splits, float], Hyperparameters]
    log: bool = True


@dataclass(frozen=True)
class Task:
    """One comparison.

    Attributes:
        splits: the data of a seed.
        model: a network with random initial weights.
        kinds: what is tuned by hypergradients.
        knobs: what the searches of rivals vary; the first is the decay.
        also: rivals beyond the common ones.
        held_out: no choice about defaults may be made on this task.
    """

    name: str
    splits: Callable[[int], Splits]
    model: Callable[[], nn.Module]
    kinds: Callable[[nn.Module, Splits], Sequence[Hyperparameters]]
    objective: Objective
    knobs: tuple[Knob, ...]
    also: frozenset[str] = frozenset()
    held_out: bool = False

    def tuned(self, splits: Splits, seed: int) -> nestor.Problem:
        """The problem that is tuned by hypergradients."""
        model = self._model(seed)
        return self._problem(model, self.kinds(model, splits), splits)

    def fixed(self, splits: Splits, seed: int, values: Mapping[str, float]) -> nestor.Problem:
        """The problem of a rival, whose knobs have these values by name, and their defaults otherwise."""
        model = self._model(seed)
        kinds = [knob.kind(model, splits, values.get(knob.name, knob.default)) for knob in self.knobs]
        return self._problem(model, kinds, splits)

    def _model(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return self.model()

    def _problem(self, model: nn.Module, kinds: Sequence[Hyperparameters], splits: Splits) -> nestor.Problem:
        return nestor.Problem(
            model,
            kinds,
            self.objective.train_loss,
            self.objective.val_loss,
            metrics={"score": self.objective.score},
            train=splits.train,
            val=splits.val,
            test=splits.test,
        )
