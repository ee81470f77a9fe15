"""The data sets of the tasks, as columns x and y; each is read once."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from sklearn import datasets
from torch import Tensor

from benchmarks.usefulness.task import Columns
from examples.data import fashion_mnist

CLASSES = 10  # of digits and of clothing


@cache
def digits() -> Columns:
    """1,797 digits of scikit-learn, 8×8, between 0 and 1."""
    x, y = _loaded(datasets.load_digits)
    return {"x": x.float().view(-1, 1, 8, 8) / 16, "y": y.long()}


@cache
def clothing() -> Columns:
    """The 10,000 test images of Fashion-MNIST, which are enough for small subsets."""
    x, y = fashion_mnist().test
    return {"x": x, "y": y}


@cache
def breast_cancer() -> Columns:
    x, y = _loaded(datasets.load_breast_cancer)
    return {"x": standardized(x), "y": y.long()}


@cache
def wine() -> Columns:
    x, y = _loaded(datasets.load_wine)
    return {"x": standardized(x), "y": y.long()}


@cache
def diabetes() -> Columns:
    x, y = _loaded(datasets.load_diabetes)
    return {"x": standardized(x), "y": standardized(y)}


def standardized(values: Tensor) -> Tensor:
    """Each column with mean zero and deviation one."""
    return ((values - values.mean(0)) / values.std(0)).float()


def _loaded(load: Any) -> tuple[Tensor, Tensor]:
    x, y = load(return_X_y=True)
    return torch.tensor(x), torch.tensor(y)
