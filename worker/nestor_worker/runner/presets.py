"""Problems that the worker builds by itself from a line of JSON."""

# pyright: reportUnknownMemberType=false
# (torch types neither fork_rng and manual_seed nor from_numpy)
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestor.data import digits
from nestor.data.digits import CLASSES, PIXELS
from nestor.data.draws import derive_seed
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


def build(preset: Preset, *, seed: int) -> Problem:
    """The problem that `preset` describes on the digits of scikit-learn, on the CPU.

    The split, the label noise and the initial weights are functions of `seed`.

    Raises:
        ConfigInvalid: the preset has a hyperparameter kind that this worker does not know.
    """
    size = {"train_size": preset.train_size, "val_size": preset.val_size}
    made = digits.splits(**size, label_noise=preset.label_noise, seed=seed)
    assert made is not None  # a worker requires scikit-learn
    train, val, test = ((torch.from_numpy(of["x"]), torch.from_numpy(of["y"])) for of in made.values())
    model = _mlp(preset.model.hidden, seed)
    return Problem(
        model,
        [_kind(kind, model, train[1]).with_prior(kind.prior) for kind in preset.hyperparameters],
        _losses,
        _loss,
        metrics={"accuracy": _accuracy},
        train=train,
        val=val,
        test=test,
    )


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


def _losses(outputs: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(outputs, batch["y"], reduction="none")


def _loss(outputs: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(outputs, batch["y"])


def _accuracy(outputs: Tensor, batch: Batch) -> Tensor:
    return (outputs.argmax(1) == batch["y"]).float().mean()
