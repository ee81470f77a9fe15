"""Wrong training labels, and few clean validation examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from benchmarks.usefulness.common import CLASSIFICATION, DECAY, Sizes, divided, perceptron, seeded
from benchmarks.usefulness.data import CLASSES, clothing, digits
from benchmarks.usefulness.task import Columns, Splits, Task
from nestor_engine.hparams import L2, ExampleWeights, Hyperparameters

Corruption = Callable[[Tensor, torch.Generator], Tensor]


def another(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Each of the other classes with the same probability."""
    return (labels + torch.randint(1, CLASSES, labels.shape, generator=generator)) % CLASSES


def following(labels: Tensor, generator: torch.Generator) -> Tensor:
    """The class that follows."""
    del generator
    return (labels + 1) % CLASSES


def mislabeled(data: Callable[[], Columns], sizes: Sizes, rate: float, wrong: Corruption) -> Callable[[int], Splits]:
    """Splits whose training labels are wrong with probability `rate`."""

    def splits(seed: int) -> Splits:
        generator = seeded(seed)
        clean = divided(data(), sizes, generator)
        labels = clean.train["y"]
        chosen = torch.rand(labels.shape, generator=generator) < rate
        noisy = torch.where(chosen, wrong(labels, generator), labels)
        return clean.training_on(clean.train | {"y": noisy})

    return splits


def kinds(model: nn.Module, splits: Splits) -> Sequence[Hyperparameters]:
    """A weight for each example, and a decay for each tensor."""
    return [ExampleWeights(len(splits.train["y"])), L2(model, per="tensor")]


DIGITS: Sizes = (1_000, 100)
CLOTHING: Sizes = (2_000, 200)

TASKS = (
    Task(
        "digits, 40 % uniform label noise",
        mislabeled(digits, DIGITS, 0.4, another),
        lambda: perceptron(64, 128, 128, outputs=CLASSES),
        kinds,
        CLASSIFICATION,
        (DECAY,),
        also=frozenset({"cleanlab"}),
    ),
    Task(
        "digits, 40 % swapped labels",
        mislabeled(digits, DIGITS, 0.4, following),
        lambda: perceptron(64, 128, 128, outputs=CLASSES),
        kinds,
        CLASSIFICATION,
        (DECAY,),
        also=frozenset({"cleanlab"}),
    ),
    Task(
        "Fashion-MNIST, 50 % uniform label noise",
        mislabeled(clothing, CLOTHING, 0.5, another),
        lambda: perceptron(784, 64, outputs=CLASSES),
        kinds,
        CLASSIFICATION,
        (DECAY,),
        also=frozenset({"cleanlab"}),
        held_out=True,
    ),
)
