"""The problems of the checkpoints in this folder, built the same wherever and whenever: `PROBLEMS[name]()`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor_engine as engine
from nestor_engine import hparams as kinds

FEATURES, CLASSES = 3, 3


class Net(nn.Module):
    """Its parameters are not in alphabetical order, one is shared, and one is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.widen = nn.Linear(FEATURES, 4)
        self.drop = nn.Dropout(0.2)
        self.mix = nn.Linear(4, 4, bias=False)
        self.again = self.mix
        self.a_head = nn.Linear(4, CLASSES)
        self.scale = nn.Parameter(torch.full((4,), 1.5), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(F.gelu(self.widen(x)))
        return self.a_head(F.gelu(self.again(torch.tanh(self.mix(h)))) * self.scale)


class Shift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.noisy = nn.ModuleDict({"by": nn.Linear(1, FEATURES)})

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + 0.1 * self.noisy["by"](noise[:, :1])


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 4), nn.GELU(), nn.Dropout(0.2), nn.Linear(4, CLASSES))


def normalised() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.GELU(), nn.Flatten(), nn.Linear(8, 4), nn.BatchNorm1d(4),
        nn.Linear(4, CLASSES),
    )  # fmt: skip


def _problem(
    make: Callable[[], nn.Module],
    tuned: Callable[[nn.Module, int], list[kinds.Hyperparameters]],
    shape: tuple[int, ...] = (FEATURES,),
    dtype: torch.dtype = torch.float64,
) -> engine.Problem:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # of weights, data and hyperparameters
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = make()
            centres = torch.randn(CLASSES, *shape)
            splits = {}
            for name, n in (("train", 14), ("val", 10), ("test", 6)):
                y = torch.arange(n) % CLASSES
                splits[name] = centres[y] + torch.randn(n, *shape), y
            losses = lambda outputs, batch: F.cross_entropy(outputs, batch["y"], reduction="none")
            return engine.Problem(model, tuned(model, 14), losses, losses, **splits)
    finally:
        torch.set_default_dtype(before)


def decays(model: nn.Module, n: int) -> list[kinds.Hyperparameters]:
    return [kinds.L2(model, per="tensor", init=-3.0)]


def every_decay(model: nn.Module, n: int) -> list[kinds.Hyperparameters]:
    decays, weights = kinds.L2(model, per="weight", init=-3.0), kinds.ExampleWeights(n)
    return [decays.with_prior(0), weights.with_prior(0)]  # priors came later


def augmented(model: nn.Module, n: int) -> list[kinds.Hyperparameters]:
    return [
        kinds.Augmentation(Shift()),
        kinds.Dropout(model),
        kinds.LabelCorrection(torch.arange(n) % CLASSES, CLASSES),
    ]


PROBLEMS: dict[str, Callable[[], engine.Problem]] = {
    "adam": lambda: _problem(Net, every_decay),
    "adam in float32": lambda: _problem(Net, every_decay, dtype=torch.float32),
    "sgd": lambda: _problem(Net, decays),
    "folds": lambda: _problem(mlp, decays),
    "folds, one not begun": lambda: _problem(mlp, decays),
    "folds of batch norm and kfac": lambda: _problem(normalised, decays, shape=(1, 3, 3)),
    "kfac": lambda: _problem(mlp, every_decay),
    "kfac before cg": lambda: _problem(mlp, every_decay),
    "batch norm": lambda: _problem(normalised, every_decay, shape=(1, 3, 3)),
    "sketch": lambda: _problem(mlp, decays),
    "richardson": lambda: _problem(mlp, decays),
    "hypernetwork": lambda: _problem(mlp, decays),
    "unrolled": lambda: _problem(mlp, augmented),
}
