"""The entries of a tensor that stand out: those that changed most, and those with the largest numbers."""

# pyright: reportUnknownMemberType=false
# (torch does not type unique)

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nestor_engine.hparams.on_host import SMALL, Numbers, on_host

BLOCK = 1024
CHUNK = {"cpu": 2**16, "cuda": 2**24}  # entries that are compared at once; a CPU has them in its cache

Score = Callable[["slice | Tensor"], Tensor]


def extreme_entries(value: Tensor, start: Tensor, gradient: Tensor | None, k: int) -> Tensor:
    """Flat indices, ascending, of the `k` entries that come first by each of four orders: at most 4 k indices.

    The orders are: the largest change |value − start|, computed in double precision; the largest |gradient|, unless it
    is None; the largest value; the smallest value. Of equal entries those with lower indices come first, on every
    device, and before all others those that are not a number.

    Args:
        value, start, gradient: of one shape and on one device.

    Returns:
        On the device of `value`, int64.
    """
    if value.numel() <= SMALL:
        given = {"value": value, "start": start} | ({} if gradient is None else {"gradient": gradient})
        found = extreme_numbers(**on_host(given), k=k)
        return torch.from_numpy(found).to(value.device)
    value, start = value.detach().flatten(), start.detach().flatten()
    scores: list[Score] = [
        lambda at: (value[at].double() - start[at].double()).abs_(),
        lambda at: value[at],
        lambda at: -value[at],
    ]
    maxima: list[Callable[[slice], Tensor]] = [
        lambda at: _by_block(scores[0](at), torch.amax),
        lambda at: _by_block(value[at], torch.amax),
        lambda at: -_by_block(value[at], torch.amin),
    ]
    if gradient is not None:
        slope = gradient.detach().flatten()
        scores.append(lambda at: slope[at].abs())
        maxima.append(lambda at: torch.maximum(_by_block(slope[at], torch.amax), -_by_block(slope[at], torch.amin)))
    chunk, n = CHUNK[value.device.type], len(value)
    # Chunk by chunk, so that the cache still has it for the next order.
    by_order = zip(*([of(slice(at, at + chunk)) for of in maxima] for at in range(0, n, chunk)), strict=True)
    found = [_first(score, torch.cat(parts), n, k) for score, parts in zip(scores, by_order, strict=True)]
    return cast("Tensor", torch.unique(torch.cat(found)))


def extreme_numbers(value: Numbers, start: Numbers, gradient: Numbers | None = None, *, k: int) -> NDArray[np.int64]:
    """As `extreme_entries`, of flat arrays."""
    if len(value) <= k:
        return np.arange(len(value))
    with np.errstate(invalid="ignore"):  # infinite − infinite
        scores = [np.abs(value - start), value, -value]
    if gradient is not None:
        scores.append(np.abs(gradient))
    return np.unique(np.concatenate([first_numbers(score, k) for score in scores]))


def first_numbers(scores: Numbers, k: int) -> NDArray[np.int64]:
    """Indices of the `k` largest scores, in order."""
    k = min(k, len(scores))
    # What is not a number is the largest for np.partition, and no smaller than any other number here.
    candidates = np.flatnonzero(~(scores < np.partition(scores, -k)[-k]))
    ordered = np.argsort(-scores[candidates], kind="stable")
    first = np.roll(ordered, np.isnan(scores[candidates]).sum())  # argsort has it last
    return candidates[first[:k]]


def _first(score: Score, maxima: Tensor, n: int, k: int) -> Tensor:
    """Indices of the `k` largest scores. `torch.topk` takes 20 times as long, and does not say which of equal entries.

    They lie in the `k` blocks with the largest maxima: if an entry lies in another one, each of the `k` blocks has an
    entry that comes before it. None of them is smaller than the smallest of these maxima.

    Args:
        maxima: of the scores of each block.
        n: the number of scores, at least `k`.
    """
    blocks = _descending(maxima)[:k]
    least = maxima[blocks[-1]] if len(blocks) == k else None
    candidates = (blocks.sort().values.unsqueeze(1) * BLOCK + torch.arange(BLOCK, device=maxima.device)).flatten()
    candidates = candidates[candidates < n]
    scores = score(candidates)
    if least is not None:
        kept = ~(scores < least)  # also what is not a number
        candidates, scores = candidates[kept], scores[kept]
    return candidates[_descending(scores)[:k]]


def _by_block(numbers: Tensor, reduce: Callable[..., Tensor]) -> Tensor:
    """The largest or the smallest number of each block, shape (blocks,)."""
    whole = len(numbers) // BLOCK * BLOCK
    found = reduce(numbers[:whole].view(-1, BLOCK), 1)
    # Only the last block of a tensor is shorter. Padding each chunk takes seven times as long.
    return found if whole == len(numbers) else torch.cat([found, reduce(numbers[whole:], 0, keepdim=True)])


def _descending(scores: Tensor) -> Tensor:
    return torch.sort(scores, descending=True, stable=True).indices
