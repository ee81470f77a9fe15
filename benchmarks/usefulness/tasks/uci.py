"""Regression sets of the UCI repository, of the sizes in Clarke, Oldewage and Hernández-Lobato (2022).

There the splits are fixed; here the seed draws them, so that the deviations over seeds include that of the data.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from numpy.lib import format as npy
from torch import Tensor, nn

from benchmarks.usefulness.data import standardized
from benchmarks.usefulness.task import DECAY, REGRESSION, Sizes, Splits, Task, divided, perceptron, seeded
from nestor_engine.hparams import L2, Hyperparameters

SIZES: dict[str, Sizes] = {"yacht": (222, 55), "energy": (614, 78)}  # training and validation rows
WIDTH = 50


def tasks(folder: Path) -> Iterator[Task]:
    """One for each set of `SIZES`, read from NAME.npz with the arrays x, shape (n, d), and y, shape (n,)."""
    for name, sizes in SIZES.items():
        with zipfile.ZipFile(folder / f"{name}.npz") as arrays:
            columns = {column: standardized(_array(arrays, column)) for column in ("x", "y")}
        yield Task(
            f"UCI {name}",
            lambda seed, columns=columns, sizes=sizes: divided(columns, sizes, seeded(seed)),
            lambda inputs=columns["x"].shape[1]: perceptron(inputs, WIDTH, outputs=1),
            kinds,
            REGRESSION,
            (DECAY,),
        )


def kinds(model: nn.Module, splits: Splits) -> Sequence[Hyperparameters]:
    """A decay for each tensor."""
    del splits
    return [L2(model, per="tensor")]


def _array(arrays: zipfile.ZipFile, name: str) -> Tensor:
    with arrays.open(f"{name}.npy") as file:
        return torch.from_numpy(npy.read_array(file, allow_pickle=False))
