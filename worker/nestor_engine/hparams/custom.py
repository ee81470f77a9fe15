"""Hyperparameters that the user's own losses read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nestor.errors import ArgumentInvalid, shown
from nestor_engine.hparams.hyperparameters import Hyperparameters
from nestor_engine.objective import Tensors


class Custom(Hyperparameters):
    """Any named tensors; the user's own losses read them as their third argument.

    Args:
        tensors: name → initial value, before the transform.
        transforms: name → transform; the losses see the transformed value.

    Raises:
        ArgumentInvalid: a name is not text, a value cannot be made a tensor, or a transform is that of another name.
    """

    def __init__(self, tensors: Tensors, transforms: dict[str, str] | None = None) -> None:
        self.init = {_named(name): _tensor(name, value) for name, value in tensors.items()}
        self.transforms = dict(transforms or {})
        if unknown := [name for name in self.transforms if name not in self.init]:
            raise ArgumentInvalid(
                owner="Custom",
                argument="transforms",
                given=f"one for {shown(unknown[0])}, which is not among the tensors {', '.join(map(repr, self.init))}",
                expected="transforms under the names of the tensors",
            )


def _named(name: Any) -> str:
    if not isinstance(name, str):
        raise ArgumentInvalid(
            owner="Custom", argument="a name", given=shown(name), expected="a dict with texts as names"
        )
    return name


def _tensor(name: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value).detach().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentInvalid(
            owner="Custom",
            argument=f"the tensor {name!r}",
            given=shown(value),
            expected="tensors, arrays or numbers; kinds such as L2(model) go into the list itself",
        ) from error
