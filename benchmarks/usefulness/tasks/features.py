"""Tables with many irrelevant features beside the real ones."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.usefulness.common import (
    CLASSIFICATION,
    DECAY,
    REGRESSION,
    Sizes,
    decay_of_each_weight,
    divided,
    perceptron,
    seeded,
)
from benchmarks.usefulness.data import breast_cancer, diabetes, wine
from benchmarks.usefulness.task import Columns, Splits, Task

WIDTH = 64


def with_irrelevant(data: Callable[[], Columns], count: int, sizes: Sizes) -> Callable[[int], Splits]:
    """Splits with `count` more features, which are standard normal."""

    def splits(seed: int) -> Splits:
        generator = seeded(seed)
        columns = data()
        x = columns["x"]
        noise = torch.randn((len(x), count), generator=generator)
        return divided(columns | {"x": torch.cat([x, noise], 1)}, sizes, generator)

    return splits


TASKS = (
    Task(
        "breast cancer, 300 irrelevant features",
        with_irrelevant(breast_cancer, 300, (200, 100)),
        lambda: perceptron(330, WIDTH, outputs=2),
        decay_of_each_weight,
        CLASSIFICATION,
        (DECAY,),
    ),
    Task(
        "diabetes, 100 irrelevant features",
        with_irrelevant(diabetes, 100, (200, 100)),
        lambda: perceptron(110, WIDTH, outputs=1),
        decay_of_each_weight,
        REGRESSION,
        (DECAY,),
    ),
    Task(
        "wine, 100 irrelevant features",
        with_irrelevant(wine, 100, (50, 40)),
        lambda: perceptron(113, WIDTH, outputs=3),
        decay_of_each_weight,
        CLASSIFICATION,
        (DECAY,),
        held_out=True,
    ),
)
