"""Hyperparameters that the user's own losses read."""

from __future__ import annotations

import torch

from nestor_engine.hparams.hyperparameters import Hyperparameters
from nestor_engine.objective import Tensors


class Custom(Hyperparameters):
    """Any named tensors; the user's own losses read them as their third argument.

    Args:
        tensors: name → initial value, before the transform.
        transforms: name → transform; the losses see the transformed value.
    """

    def __init__(self, tensors: Tensors, transforms: dict[str, str] | None = None) -> None:
        self.init = {name: torch.as_tensor(value).detach().clone() for name, value in tensors.items()}
        self.transforms = dict(transforms or {})
