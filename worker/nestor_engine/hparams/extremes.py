"""The entries of a tensor that stand out: those that changed most, and those with the largest numbers."""

# pyright: reportUnknownMemberType=false
# (torch does not type unique)

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 1024
CHUNK = {"cpu": 2**16, "cuda": 2**24}  # entries whose scores are in memory at once; a CPU has them in its cache

Score = Callable[["slice | Tensor"], Tensor]


def extreme_entries(value: Tensor, start: Tensor, gradient: Tensor | None, k: int) -> Tensor:
    """Flat indices, ascending, of the `k` entries that come first by each of four orders: at most 4 k indices.

    The orders are: the largest change |value − start|, computed in double precision; the largest |gradient|, unless it
    is None; the largest value; the smallest value. Of equal entries those with lower indices come first, on every
    device.

    Args:
        value, start, gradient: of one shape and on one device.

    Returns:
        On the device of `value`, int64.
    """
    value, start, gradient = value.flatten(), start.flatten(), None if gradient is None else gradient.flatten()
    scores: list[Score] = [
        lambda at: (value[at].double() - start[at].double()).abs(),
        lambda at: value[at],
        lambda at: -value[at],
    ]
    if gradient is not None:
        scores.append(lambda at: gradient[at].abs())
    return cast("Tensor", torch.unique(torch.cat([_first(score, value, k) for score in scores])))


def _first(score: Score, like: Tensor, k: int) -> Tensor:
    """Indices of the `k` largest scores. `torch.topk` takes 20 times as long, and does not say which of equal entries.

    They lie in the `k` blocks with the largest maxima: if an entry lies in another one, each of the `k` blocks has an
    entry that comes before it.
    """
    n = like.numel()
    if n <= k:
        return torch.arange(n, device=like.device)
    chunk = CHUNK[like.device.type]
    maxima = torch.cat([_maxima(score(slice(begin, begin + chunk))) for begin in range(0, n, chunk)])
    blocks = _descending(maxima)[:k].sort().values
    candidates = (blocks.unsqueeze(1) * BLOCK + torch.arange(BLOCK, device=like.device)).flatten()
    candidates = candidates[candidates < n]
    return candidates[_descending(score(candidates))[:k]]


def _maxima(scores: Tensor) -> Tensor:
    """The maximum of each block, shape (blocks,)."""
    return F.pad(scores, (0, -len(scores) % BLOCK), value=-torch.inf).view(-1, BLOCK).amax(1)


def _descending(scores: Tensor) -> Tensor:
    return torch.sort(scores, descending=True, stable=True).indices
