"""Regression sets of the UCI repository, of the sizes in Clarke, Oldewage and Hernández-Lobato (2022).

There the splits are fixed; here the seed draws them, so that the deviations over seeds include that of the data.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from numpy.lib import format as npy
from torch import Tensor

from benchmarks.usefulness.common import DECAY, REGRESSION, Sizes, decay_of_each_tensor, divided, perceptron, seeded
from benchmarks.usefulness.data import standardized
from benchmarks.usefulness.task import Task

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
            decay_of_each_tensor,
            REGRESSION,
            (DECAY,),
        )


def _array(arrays: zipfile.ZipFile, name: str) -> Tensor:
    with arrays.open(f"{name}.npy") as file:
        return torch.from_numpy(npy.read_array(file, allow_pickle=False))
