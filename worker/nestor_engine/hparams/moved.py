"""How many of a tensor's entries have moved since the start of a trial."""

# pyright: reportUnknownMemberType=false
# (torch does not type from_numpy)

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from nestor_engine.hparams.extremes import CHUNK
from nestor_engine.hparams.hyperparameters import TRANSFORMS
from nestor_engine.hparams.on_host import Numbers

MOVED = 0.1  # of the start


def has_moved(value: Tensor, start: Tensor, transform: str) -> Tensor:
    """For each entry, whether what the losses read differs from its start by more than `MOVED` times that start.

    So from a start of 0 every change counts, and NaN has always moved. It is computed in double precision.

    Args:
        value, start: before the transform, of one shape and on one device.
        transform: one of `TRANSFORMS`.
    """
    used, began = (TRANSFORMS[transform](raw.detach().double()) for raw in (value, start))
    return (used != began) & ~((used - began).abs() <= MOVED * began.abs())


def moved_fraction(value: Tensor, start: Tensor, transform: str) -> float:
    """The fraction of the entries that have moved; 0 without any. Memory does not follow the size of the tensors."""
    value, start, chunk = value.flatten(), start.flatten(), CHUNK[value.device.type] // 4
    # A quarter, because each part is several copies in double precision.
    parts = (slice(at, at + chunk) for at in range(0, len(value), chunk))
    counts = [has_moved(value[part], start[part], transform).sum() for part in parts]
    return int(torch.stack(counts).sum()) / len(value) if counts else 0.0


def moved_fractions(
    values: Mapping[str, Numbers], starts: Mapping[str, Numbers], transforms: Mapping[str, str]
) -> dict[str, float]:
    """The same of each of many small tensors, by name; all with one transform at once.

    Args:
        transforms: by name; those of other names are the identity.
    """
    by_transform: dict[str, list[str]] = {}
    for name in values:
        by_transform.setdefault(transforms.get(name, "identity"), []).append(name)
    found: dict[str, float] = {}
    for transform, names in by_transform.items():
        value, start = (torch.from_numpy(np.concatenate([of[name] for name in names])) for of in (values, starts))
        counts = np.concatenate([[0], np.cumsum(has_moved(value, start, transform).numpy())])  # of the first 0, 1, …
        ends = np.cumsum([len(values[name]) for name in names])
        moved = np.diff(counts[ends], prepend=0)
        found |= {name: int(n) / max(1, len(values[name])) for name, n in zip(names, moved, strict=True)}
    return found
