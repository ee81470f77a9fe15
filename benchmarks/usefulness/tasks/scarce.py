"""Few examples, of all classes or of some."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from benchmarks.usefulness.common import CLASSIFICATION, DECAY, Sizes, decay_of_each_weight, divided, perceptron, seeded
from benchmarks.usefulness.data import CLASSES, clothing, digits
from benchmarks.usefulness.task import Columns, Knob, Splits, Task
from nestor_engine.hparams import L2, ClassWeights, Hyperparameters

LARGEST, RATIO = 100, 50  # training examples of the largest class, and how many times those of the smallest
PER_CLASS = 10  # validation examples; the test data are balanced, too
SHORTEST = 170  # examples that each class has at least


def long_tail(seed: int) -> Splits:
    """Class sizes that fall exponentially, in an order of the classes that the seed draws."""
    generator = seeded(seed)
    columns = digits()
    parts: list[list[torch.Tensor]] = [[], [], []]
    for rank, label in enumerate(torch.randperm(CLASSES, generator=generator)):
        found = (columns["y"] == label).nonzero().flatten()
        found = found[torch.randperm(len(found), generator=generator)][:SHORTEST]
        n = round(LARGEST * RATIO ** (-rank / (CLASSES - 1)))
        ends = (found[:n], found[LARGEST : LARGEST + PER_CLASS], found[LARGEST + PER_CLASS :])
        for part, taken in zip(parts, ends, strict=True):
            part.append(taken)
    chosen = [torch.cat(part) for part in parts]
    return Splits(*({name: values[part] for name, values in columns.items()} for part in chosen))


def inverse_frequency(model: nn.Module, splits: Splits, exponent: float) -> Hyperparameters:
    """Fixed weights count^−exponent of the classes."""
    del model
    counts = torch.bincount(splits.train["y"], minlength=CLASSES)
    return ClassWeights(CLASSES, init=(counts.double() ** -exponent).tolist())


def few(data: Callable[[], Columns], sizes: Sizes) -> Callable[[int], Splits]:
    return lambda seed: divided(data(), sizes, seeded(seed))


def of_each_class(model: nn.Module, splits: Splits) -> Sequence[Hyperparameters]:
    """A weight for each class, and a decay for each tensor."""
    del splits
    return [ClassWeights(CLASSES), L2(model, per="tensor")]


BALANCE = Knob("balance", 0.0, 1.0, 0.0, inverse_frequency, log=False)

TASKS = (
    Task(
        "digits, long tail 50:1",
        long_tail,
        lambda: perceptron(64, 128, outputs=CLASSES),
        of_each_class,
        CLASSIFICATION,
        (DECAY, BALANCE),
        also=frozenset({"class-balanced"}),
    ),
    Task(
        "digits, 100 + 100 examples",
        few(digits, (100, 100)),
        lambda: perceptron(64, 128, outputs=CLASSES),
        decay_of_each_weight,
        CLASSIFICATION,
        (DECAY,),
    ),
    Task(
        "Fashion-MNIST, 400 + 100 examples",
        few(clothing, (400, 100)),
        lambda: perceptron(784, 64, outputs=CLASSES),
        decay_of_each_weight,
        CLASSIFICATION,
        (DECAY,),
    ),
)
