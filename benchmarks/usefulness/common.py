"""What many tasks have: knobs, losses, networks, and the division of examples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.usefulness.task import Columns, Knob, Objective, Splits
from nestor_engine.hparams import L2, Dropout, Hyperparameters

Sizes = tuple[int, int]  # training and validation examples; the others are for testing

# From a decay that hardly changes anything to one that is too strong for every task that is not held out.
DECAY = Knob(
    "decay", 1e-4, 0.5, math.exp(-6), lambda model, splits, value: L2(model, per="global", init=math.log(value))
)


def dropout(default: float) -> Knob:
    """One rate for all dropout layers."""
    return Knob("dropout", 0.01, 0.7, default, lambda model, splits, value: Dropout(model, init=value, per="global"))


def decay_of_each_weight(model: nn.Module, splits: Splits) -> Sequence[Hyperparameters]:
    del splits
    return [L2(model, per="weight")]


def decay_of_each_tensor(model: nn.Module, splits: Splits) -> Sequence[Hyperparameters]:
    del splits
    return [L2(model, per="tensor")]


def cross_entropy(outputs: Tensor, batch: Columns) -> Tensor:
    return F.cross_entropy(outputs, batch["y"], reduction="none")


def accuracy(outputs: Tensor, batch: Columns) -> Tensor:
    return (outputs.argmax(1) == batch["y"]).float()


def squared_error(outputs: Tensor, batch: Columns) -> Tensor:
    return (outputs.squeeze(1) - batch["y"]) ** 2


def minus_squared_error(outputs: Tensor, batch: Columns) -> Tensor:
    return -squared_error(outputs, batch)


CLASSIFICATION = Objective(cross_entropy, cross_entropy, accuracy)
REGRESSION = Objective(squared_error, squared_error, minus_squared_error)


def perceptron(inputs: int, *hidden: int, outputs: int) -> nn.Module:
    """Linear layers with GELU between them, on flattened inputs."""
    layers: list[nn.Module] = [nn.Flatten()]
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.GELU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def divided(columns: Columns, sizes: Sizes, generator: torch.Generator) -> Splits:
    """The examples in random order, divided."""
    n_train, n_val = sizes
    order = torch.randperm(len(next(iter(columns.values()))), generator=generator)
    parts = order[:n_train], order[n_train : n_train + n_val], order[n_train + n_val :]
    return Splits(*({name: values[part] for name, values in columns.items()} for part in parts))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
