"""Quantiles and histograms of hyperparameters, at a small part of the cost of an outer step.

The grid of a histogram follows from its tensor alone: the width of a bin is a power of two, edges are multiples of it,
and it is the smallest width with which `MAX_BINS` bins have all entries. So histograms of different steps can be joined
without error: two bins of one grid are a bin of the next coarser one.
"""

# pyright: reportUnknownMemberType=false
# (torch does not type the entries of Tensor.tolist)

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nestor.schemas.steps import MAX_BINS, QUANTILES, Distribution
from nestor_engine.hparams.on_host import SMALL, Numbers, on_host
from nestor_engine.objective import Tensors

PARTS = 2**10  # of a bin, at which quantiles are read
CHUNK = 2**20  # entries that are counted at a time, so that memory does not follow the size of a tensor
RESOLVED = 2**12  # parts between the quantiles of 5 % and 95 %, at least
NARROWEST = 2.0**-110  # width of a part
TINY = 2.0**-100  # of the largest magnitude: entries up to it count as zero, because their quotients may underflow


@dataclass(frozen=True)
class Grid:
    """Bins of one width. Bin i has the values from (first + i)·width to (first + i + 1)·width, without the latter.

    Values of a magnitude up to `tiny` count as zero.
    """

    first: int
    width: float
    bins: int
    tiny: float

    @staticmethod
    def of(low: float, high: float, most: int) -> Grid:
        """The finest grid of at most `most` bins that has all values from `low` to `high`."""
        tiny = max(-low, high) * TINY
        low, high = (0.0 if abs(end) <= tiny else end for end in (low, high))
        # An index of a part is at most 2^53, so that a float64 has its edges.
        narrowest = max(max(-low, high) * 2.0**-52, NARROWEST) * (MAX_BINS * PARTS / most)
        # Halved, because the difference of two floats may be infinite.
        width = 2.0 ** (math.frexp(max((high / 2 - low / 2) / most, narrowest))[1] - 1)
        while math.floor(high / width) - math.floor(low / width) >= most:
            width *= 2
        first = math.floor(low / width)
        return Grid(first, width, math.floor(high / width) - first + 1, tiny)

    def divided(self, parts: int) -> Grid:
        """The grid of which `parts` bins are one of this grid. `parts` is a power of two."""
        return Grid(self.first * parts, self.width / parts, self.bins * parts, self.tiny)

    def counts(self, values: Tensor) -> Tensor:
        """How many `values` are below the grid, in each bin, and above it; int64 on the host."""
        total = torch.zeros(self.bins + 2, dtype=torch.int64)
        for chunk in torch.split(values, CHUNK):
            total += torch.bincount(self._places(chunk), minlength=self.bins + 2).cpu()
        return total

    def range(self, values: Tensor, first: int, last: int) -> tuple[float, float]:
        """The smallest and the largest of the `values` from bin `first` to bin `last`, which have some."""
        ends: list[Tensor] = []
        for chunk in torch.split(values, CHUNK):
            places = self._places(chunk)
            inside = (places > first) & (places <= last + 1)
            ends += [torch.where(inside, chunk, math.inf).amin(), -torch.where(inside, chunk, -math.inf).amax()]
        together = torch.stack(ends).reshape(-1, 2).amin(0)
        low, high = cast("list[float]", together.tolist())
        return low, -high

    def _places(self, values: Tensor) -> Tensor:
        """One more than the bin of each of `values`; 0 below the grid."""
        # Exact: a product with a power of two is, and so is a small difference of whole numbers.
        scaled = functional.hardshrink(values.float() if values.itemsize < 4 else values, self.tiny)
        return scaled.mul_(1 / self.width).floor_().sub_(self.first).clamp_(-1, self.bins).add_(1).to(torch.int32)


def distributions(hparams: Tensors) -> dict[str, Distribution]:
    """The distribution of the finite entries of each tensor that has several.

    Quantiles of up to `SMALL` entries are exact. Others are off by at most 2/`RESOLVED` of the distance between those
    of 5 % and 95 %, except the smallest and the largest entry, which are exact. Counts are exact, and
    those of zero have all entries up to `TINY` of the largest magnitude.
    """
    several = {name: value.detach().reshape(-1) for name, value in hparams.items() if value.numel() > 1}
    small = on_host({name: value for name, value in several.items() if len(value) <= SMALL})
    found = {name: _sorted(small[name]) if name in small else _counted(value) for name, value in several.items()}
    return {name: one for name, one in found.items() if one is not None}


def _sorted(values: Numbers) -> Distribution | None:
    """By sorting."""
    ordered = np.sort(values)
    ordered = ordered[np.isfinite(ordered)]
    if not len(ordered):
        return None
    grid = Grid.of(float(ordered[0]), float(ordered[-1]), MAX_BINS)
    entries = np.where(np.abs(ordered) <= grid.tiny, 0.0, ordered)
    places = (np.floor(entries / grid.width) - grid.first).astype(np.int64)
    counts = cast("list[int]", np.bincount(places, minlength=grid.bins).tolist())
    return _distribution(grid, counts, [float(ordered[rank]) for rank in _ranks(len(ordered))], len(ordered))


def _counted(values: Tensor) -> Distribution | None:
    """By counting, in a time that is linear."""
    low, high = _range(values)
    if not (math.isfinite(low) and math.isfinite(high)):
        values = values[values.isfinite()]
        if not len(values):
            return None
        low, high = _range(values)
    grid, n = Grid.of(low, high, MAX_BINS), len(values)
    if low == high:
        return _distribution(grid, [n], [low] * 2 * len(QUANTILES), n)
    fine = grid.divided(PARTS)
    counts = fine.counts(values)
    coarse = cast("list[int]", counts[1:-1].reshape(-1, PARTS).sum(1).tolist())
    inner = [min(max(low, one), high) for one in _at_ranks(values, fine, counts, _ranks(n)[2:-2])]
    return _distribution(grid, coarse, [low, low, *inner, high, high], n)


def _at_ranks(values: Tensor, grid: Grid, counts: Tensor, ranks: Sequence[int]) -> list[float]:
    """The entries of these ranks, which increase, to within a bin.

    Args:
        counts: of `values` in `grid`, which has these entries.
    """
    ends = counts.cumsum(0)
    places = cast("list[int]", torch.searchsorted(ends, torch.tensor(ranks), right=True).tolist())
    if places[-1] - places[0] < RESOLVED:
        # Most entries are close together, beside a few far ones: look at them more closely.
        low, high = grid.range(values, places[0] - 1, places[-1] - 1)
        if low == high:
            return [low] * len(ranks)
        finer = Grid.of(low, high, MAX_BINS * PARTS)
        if finer.width < grid.width:
            return _at_ranks(values, finer, finer.counts(values), ranks)
    found: list[float] = []
    for rank, place in zip(ranks, places, strict=True):
        in_bin = int(counts[place])
        share = (rank - int(ends[place]) + in_bin + 0.5) / in_bin  # as if the entries of a bin had equal distances
        found.append((grid.first + place - 1 + share) * grid.width)
    return found


def _range(values: Tensor) -> tuple[float, float]:
    low, high = cast("list[float]", torch.stack(torch.aminmax(values)).tolist())
    return low, high


def _ranks(n: int) -> list[int]:
    """The ranks, from 0, of the entries below and above each quantile of `n` entries, one after the other."""
    below = [percent * (n - 1) // 100 for percent in QUANTILES]
    return [min(rank + more, n - 1) for rank in below for more in (0, 1)]


def _distribution(grid: Grid, counts: list[int], ordered: Sequence[float], n: int) -> Distribution:
    """Of the entries of `_ranks`, between which quantiles are interpolated linearly, as numpy does."""
    shares = [percent * (n - 1) % 100 / 100 for percent in QUANTILES]
    pairs = zip(ordered[::2], ordered[1::2], shares, strict=True)
    # Not low + share (high − low), whose difference may be infinite. Adding 0 removes the sign of a negative zero.
    quantiles = tuple(low if share == 0 else low * (1 - share) + high * share + 0.0 for low, high, share in pairs)
    return Distribution(quantiles=quantiles, first=grid.first, width=grid.width, counts=tuple(counts))
