"""Problems that the worker builds by itself from a line of JSON."""

# pyright: reportUnknownMemberType=false
# (torch types neither fork_rng and manual_seed nor from_numpy)
from __future__ import annotations

import gzip
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestor.errors import OptionUnknown
from nestor.options.presets import (
    ClassWeightsPreset,
    ExampleWeightsPreset,
    HyperparameterPreset,
    L1Preset,
    L2Preset,
    LabelCorrectionPreset,
    LabelSmoothingPreset,
)
from nestor.schemas import Preset
from nestor_engine import Problem
from nestor_engine.hparams import L1, L2, ClassWeights, ExampleWeights, Hyperparameters, LabelCorrection, LabelSmoothing
from nestor_engine.objective import Batch
from nestor_engine.tensors.random import derive_seed

CLASSES = 10
PIXELS = 64


def build(preset: Preset, *, seed: int) -> Problem:
    """The problem that `preset` describes on the digits of scikit-learn, on the CPU.

    The split, the label noise and the initial weights are functions of `seed`.

    Raises:
        ConfigInvalid: the preset has a hyperparameter kind that this worker does not know.
    """
    x, y = _digits()
    order = torch.randperm(len(x), generator=_generator(seed, "split"))
    train, val, test = order.tensor_split([preset.train_size, preset.train_size + preset.val_size])
    model = _mlp(preset.model.hidden, seed)
    labels = _with_label_noise(y[train], preset.label_noise, seed)
    return Problem(
        model,
        [_kind(kind, model, labels) for kind in preset.hyperparameters],
        _losses,
        _loss,
        metrics={"accuracy": _accuracy},
        train=(x[train], labels),
        val=(x[val], y[val]),
        test=(x[test], y[test]),
    )


@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor]:
    """1,797 handwritten digits of 8×8 pixels: x (n, 64) in [0, 1], y (n,).

    They are read from scikit-learn's file. Importing scikit-learn would import scipy, pandas and pyarrow as well, which
    takes a second and 150 MB in every runner.
    """
    scikit_learn = find_spec("sklearn")
    assert scikit_learn is not None
    assert scikit_learn.origin is not None
    with gzip.open(Path(scikit_learn.origin).parent / "datasets" / "data" / "digits.csv.gz") as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=","))
    return (table[:, :-1] / 16).float(), table[:, -1].long()


def _mlp(hidden: tuple[int, ...], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "model"))
        widths = (PIXELS, *hidden)
        layers: list[nn.Module] = []
        for i in range(len(hidden)):
            layers += [nn.Linear(widths[i], widths[i + 1]), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], CLASSES))


def _kind(kind: HyperparameterPreset, model: nn.Module, labels: Tensor) -> Hyperparameters:
    match kind:
        case L2Preset():
            return L2(model, per=kind.per, only=kind.only or None, init=kind.init)
        case L1Preset():
            return L1(model, per=kind.per, only=kind.only or None, init=kind.init)
        case ClassWeightsPreset():
            return ClassWeights(CLASSES, normalize=kind.normalize)
        case LabelSmoothingPreset():
            return LabelSmoothing(CLASSES, per=kind.per, init=kind.init)
        case ExampleWeightsPreset():
            return ExampleWeights(len(labels), init=kind.init)
        case LabelCorrectionPreset():
            return LabelCorrection(labels, CLASSES, strength=kind.strength)
        case _:
            raise OptionUnknown(option=f"hyperparameters={kind.tag!r}", rule="this worker does not support them")


def _with_label_noise(y: Tensor, fraction: float, seed: int) -> Tensor:
    """`y` with `fraction` of its labels changed to the next class."""
    wrong = torch.randperm(len(y), generator=_generator(seed, "noise"))[: round(fraction * len(y))]
    noisy = y.clone()
    noisy[wrong] = (y[wrong] + 1) % CLASSES
    return noisy


def _generator(seed: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, purpose))


def _losses(outputs: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(outputs, batch["y"], reduction="none")


def _loss(outputs: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(outputs, batch["y"])


def _accuracy(outputs: Tensor, batch: Batch) -> Tensor:
    return (outputs.argmax(1) == batch["y"]).float().mean()
