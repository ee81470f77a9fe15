"""Small problems with something to tune."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestor import Problem
from nestor.hparams import L2, ExampleWeights


def ridge(*, n: int = 40, val_loss: Callable[..., Any] | None = None, per_example: bool = False) -> Problem:
    """A linear model with a decay for every weight, and possibly a weight for every example."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    truth = draw(4, 1)

    def split() -> tuple[Tensor, Tensor]:
        x = draw(n, 4)
        return x, x @ truth + 0.3 * draw(n, 1)

    model = nn.Linear(4, 1)
    for weights in model.parameters():  # torch's own generator belongs to trials in other threads, too
        nn.init.uniform_(weights, -0.5, 0.5, generator=generator)
    return Problem(
        model,
        [L2(model, per="weight", init=-2.0), *([ExampleWeights(n)] if per_example else [])],
        squared_error,
        val_loss or squared_error,
        metrics={"mae": lambda outputs, batch: (outputs - batch["y"]).abs().mean()},
        train=split(),
        val=split(),
        test=split(),
    )


def overfitting() -> Problem:
    """Twelve examples for twenty weights, which learn the noise: the validation loss falls, then it rises."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    truth = 0.2 * draw(20, 1)

    def split(n: int, noise: float) -> tuple[Tensor, Tensor]:
        x = draw(n, 20)
        return x, x @ truth + noise * draw(n, 1)

    model = nn.Linear(20, 1)
    for weights in model.parameters():
        nn.init.uniform_(weights, -0.1, 0.1, generator=generator)
    return Problem(
        model,
        L2(model, per="weight", init=-9.0),
        squared_error,
        squared_error,
        metrics={"closeness": lambda outputs, batch: -(outputs - batch["y"]).abs().mean()},
        train=split(12, 2.0),
        val=split(50, 0.1),
    )


def squared_error(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return F.mse_loss(outputs, batch["y"])
