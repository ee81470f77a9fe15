"""Initial weights of groups and tasks, as their author gives them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nestor.errors import OptionOutOfRange, shown


def initial_weights(kind: str, given: Sequence[float] | Tensor | None, n: int) -> Tensor:
    """`given` as a tensor of shape (n,); ones by default. `kind` is for the message.

    Raises:
        OptionOutOfRange: these are not n positive numbers.
    """
    if given is None:
        return torch.ones(n)
    weights = torch.as_tensor(given, dtype=torch.get_default_dtype()).detach().clone()
    if weights.shape != (n,) or not (weights.isfinite() & (weights > 0)).all():
        raise OptionOutOfRange(option=f"{kind}(init={shown(given)})", rule=f"give {n} positive numbers")
    return weights
