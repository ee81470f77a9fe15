"""Small tensors on the host, where numpy sorts them faster than torch, and all in one transfer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SMALL = 2**13  # entries up to which this is worth it

Numbers = NDArray[np.float64]


def on_host(tensors: Mapping[str, Tensor]) -> dict[str, Numbers]:
    """The entries of each tensor, flat and in double precision. The tensors are on one device."""
    if not tensors:
        return {}
    flat = [value.detach().reshape(-1).double() for value in tensors.values()]
    together: NDArray[Any] = torch.cat(flat).cpu().numpy()
    ends = np.cumsum([value.numel() for value in tensors.values()])[:-1]
    return dict(zip(tensors, np.split(together, ends), strict=True))
