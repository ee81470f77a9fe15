"""Upright training images, and turned and shifted ones for validation and testing: what augmentation is right?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.usefulness.common import CLASSIFICATION, DECAY, Sizes, divided, perceptron, seeded
from benchmarks.usefulness.data import CLASSES, digits
from benchmarks.usefulness.task import Knob, Splits, Task
from nestor_engine.hparams import L2, Augmentation, Hyperparameters

SIZES: Sizes = (300, 100)
REAL = (0.5, 0.15, 0.15)  # deviations of the angle in radians, and of the shifts in halves of the width
START = 0.03  # deviation of each where tuning starts


def moved(images: Tensor, how: Tensor) -> Tensor:
    """Images (B, 1, H, W), each turned by how[:, 0] and shifted by how[:, 1:]."""
    angle, right, down = how.unbind(1)
    rows = [torch.stack([angle.cos(), -angle.sin(), right], 1), torch.stack([angle.sin(), angle.cos(), down], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


class Motion(nn.Module):
    """Random turns and shifts with learned deviations: a differentiable augmentation (images, noise) → images."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.log_deviations = nn.Parameter(torch.full((len(REAL),), math.log(deviation)))

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """One pixel of each channel of the noise is used."""
        return moved(images, noise[:, :, 0, 0] * self.log_deviations.exp())


def splits(seed: int) -> Splits:
    generator = seeded(seed)
    upright = divided(digits(), SIZES, generator)
    turned = [
        columns
        | {"x": moved(columns["x"], torch.randn((len(columns["x"]), 3), generator=generator) * torch.tensor(REAL))}
        for columns in (upright.val, upright.test)
    ]
    return Splits(upright.train, *turned)


def kinds(model: nn.Module, splits: Splits) -> Sequence[Hyperparameters]:
    """The deviations of turns and shifts, and a decay for each tensor."""
    return [strength(model, splits, START), L2(model, per="tensor")]


def strength(model: nn.Module, splits: Splits, deviation: float) -> Hyperparameters:
    """Turns and shifts with the same deviation."""
    del model, splits
    return Augmentation(Motion(deviation), noise=len(REAL))


TASKS = (
    Task(
        "digits, turned and shifted",
        splits,
        lambda: perceptron(64, 128, outputs=CLASSES),
        kinds,
        CLASSIFICATION,
        (DECAY, Knob("motion", 0.01, 1.0, START, strength)),
    ),
)
