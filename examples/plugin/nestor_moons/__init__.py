"""A problem that a worker builds: a layer that is repeated until it settles, on points of two moons."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from nestor import Problem
from nestor.hparams import L2


def settling(*, width: int = 16, n: int = 200, noise: float = 0.2, seed: int = 0) -> Problem:
    """A layer that is repeated until its output settles, with a decay for every weight.

    Args:
        width: of the layer.
        n: examples in each split.
        noise: standard deviation of the points around their moon.
        seed: of the data; by default the trial's.
    """
    model = Settling(width)
    train, val, test = (columns(Moons(n, noise, seed=3 * seed + split)) for split in range(3))
    decays = L2(model, per="weight", init=-6.0)
    return Problem(model, decays, losses, losses, metrics={"accuracy": accuracy}, train=train, val=val, test=test)


class Moons(Dataset[tuple[Tensor, Tensor]]):
    """Points of two half circles; example i is a function of the seed and of i. A real one would read files."""

    def __init__(self, n: int, noise: float, *, seed: int) -> None:
        self.n, self.noise, self.seed = n, noise, seed

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        """The point, shape (2,), and which moon it belongs to."""
        generator = torch.Generator().manual_seed(self.seed * self.n + i)
        angle = math.pi * torch.rand((), generator=generator).item()
        upper = i % 2 == 0
        x, y = (math.cos(angle), math.sin(angle)) if upper else (1 - math.cos(angle), 0.5 - math.sin(angle))
        return torch.tensor([x, y]) + self.noise * torch.randn(2, generator=generator), torch.tensor(int(upper))


def columns(dataset: Moons) -> tuple[Tensor, Tensor]:
    """All examples: x of shape (n, 2), y of shape (n,)."""
    x, y = zip(*(dataset[i] for i in range(len(dataset))), strict=True)
    return torch.stack(x), torch.stack(y)


class Settling(nn.Module):
    """Repeats a layer until its output no longer changes. How often depends on the data, so no graph can hold it."""

    def __init__(self, width: int, *, tolerance: float = 0.05, limit: int = 20) -> None:
        super().__init__()
        self.read, self.repeat, self.decide = nn.Linear(2, width), nn.Linear(width, width), nn.Linear(width, 2)
        self.tolerance, self.limit = tolerance, limit

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (B, 2) for points of shape (B, 2)."""
        given = self.read(x)
        hidden = torch.tanh(given)
        for _ in range(self.limit):
            before, hidden = hidden, torch.tanh(given + self.repeat(hidden))
            if (hidden - before).abs().max() < self.tolerance:
                break
        return self.decide(hidden)


def losses(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The cross-entropy of each example, shape (B,)."""
    return F.cross_entropy(outputs, batch["y"], reduction="none")


def accuracy(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The fraction of the examples that are classified correctly."""
    return (outputs.argmax(1) == batch["y"]).float().mean()
