"""Each argument of each kind and of a problem, replaced by values of every other type."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nestor.errors import ArgumentsInvalid, CallInvalid, NestorError
from nestor_engine import Problem, hparams

MODEL = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1), nn.Linear(4, 2), nn.Linear(2, 2))
MODEL[3].requires_grad_(False)
X, Y = torch.randn(12, 3), torch.arange(12) % 2
IMAGES = torch.randn(12, 1, 4, 4)


def loss(outputs: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(outputs, batch["y"])


CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "L2": (hparams.L2, {"model": MODEL, "per": "weight", "only": "0", "init": -6.0, "name": "a"}),
    "L1": (hparams.L1, {"model": MODEL, "per": "tensor", "only": ["0"], "init": -6.0, "name": None}),
    "InitializationScale": (hparams.InitializationScale, {"model": MODEL, "per": "tensor", "only": None, "init": 0.0}),
    "Dropout": (
        hparams.Dropout,
        {"model": MODEL, "init": 0.2, "per": "layer", "temperature": 0.1, "name": "a"},
    ),
    "ExampleWeights": (hparams.ExampleWeights, {"n": 12, "init": 0.0, "transform": "sigmoid", "name": "a"}),
    "GroupWeights": (
        hparams.GroupWeights,
        {"column": "y", "groups": 2, "normalize": "softmax", "init": [1.0, 2.0], "name": "a"},
    ),
    "ClassWeights": (
        hparams.ClassWeights,
        {"classes": 2, "column": "y", "normalize": "softmax", "init": None, "name": "a"},
    ),
    "LossWeights": (hparams.LossWeights, {"tasks": ["a", "b"], "init": [1.0, 2.0], "name": "a"}),
    "LabelSmoothing": (
        hparams.LabelSmoothing,
        {"classes": 2, "init": 0.1, "per": "global", "column": "y", "dtype": torch.float32, "name": "a"},
    ),
    "LabelCorrection": (
        hparams.LabelCorrection,
        {"labels": Y, "classes": 2, "strength": 4.0, "column": "y", "dtype": torch.float32, "name": "a"},
    ),
    "LossReweighting": (
        hparams.LossReweighting,
        {"network": nn.Linear(3, 1), "reads": "x", "positive": "sigmoid", "name": "a"},
    ),
    "DistilledData": (hparams.DistilledData, {"x": X, "column": "x", "name": "a"}),
    "DistilledData.start": (
        hparams.DistilledData.start,
        {"x": X, "y": Y, "per_class": 1, "kind": "noise", "seed": 0},
    ),
    "Augmentation": (hparams.Augmentation, {"channels": 1, "noise": 1, "column": "x", "name": "a"}),
    "Augmentation of a network": (hparams.Augmentation, {"network": hparams.UNet(1), "noise": 1}),
    "UNet": (hparams.UNet, {"channels": 1, "noise": 1, "width": 16, "depth": 2}),
    "Submodule": (hparams.Submodule, {"model": MODEL, "path": "3"}),
    "Custom": (hparams.Custom, {"tensors": {"a": torch.zeros(2)}, "transforms": {"a": "exp"}}),
    "bounded": (hparams.L2(MODEL).bounded, {"least": -10.0, "largest": 10.0}),
    "Problem": (
        Problem,
        {
            "model": MODEL,
            "hparams": hparams.L2(MODEL),
            "train_loss": loss,
            "val_loss": loss,
            "metrics": {"error": loss},
            "train": (X, Y),
            "val": {"x": X, "y": Y},
            "test": (X, Y),
            "inputs": "x",
            "transform": dict,
        },
    ),
}  # fmt: skip

VALUES: list[Any] = [
    None, True, -1, 0, 3, 2.5, -0.5, math.nan, math.inf, 1j, "", "a", b"a", [], [1], ["a", 1], (), {}, {"a": 1},
    {1: "a"}, {"a"}, object(), print, int, nn.Linear, nn.Linear(3, 2), nn.ReLU(), torch.zeros(()), torch.zeros(3),
    torch.zeros(12, 3), torch.tensor([5]), torch.float16, np.float32(2), np.int64(2), np.zeros(3), np.array(["a"]),
]  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_an_argument_of_another_type_is_named(name: str):
    call, arguments = CALLS[name]
    call(**arguments)
    faults: list[str] = []
    for argument in arguments:
        for value in VALUES:
            try:
                call(**arguments | {argument: value})
            except (ArgumentsInvalid, CallInvalid) as error:  # which only repeat what Python and torch said
                faults.append(f"{argument}={value!r}: {error}")
            except NestorError:
                pass
            except Exception as error:
                faults.append(f"{argument}={value!r}: {error!r}")
    assert not faults, "\n".join(faults)
