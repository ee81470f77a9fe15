"""Several processes compute one trajectory together: each takes its part of every batch.

Gradients, curvature products and losses are means over examples. So the weighted mean of the processes' results is the
result on the whole batch. Losses and metrics that are no such means have a weight of their own, or are computed on the
outputs of all processes. All processes have the same state, bit for bit, and make the same decisions:
only results are exchanged.
"""

# pyright: reportUnknownMemberType=false
# (torch types neither all_reduce nor the entries of Tensor.tolist)

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from nestor.errors import BatchNotDivisible
from nestor_engine.objective import Tensors
from nestor_engine.tensors.random import derive_seed


class PeerLost(Exception):
    """Another process of the group does not answer. The trial cannot continue; the problem is not the cause."""


@dataclass(frozen=True)
class Group:
    """This process's place in torch's default process group; a single process needs no group.

    Attributes:
        rank: from 0.
        device: the device of small messages, which the group's backend must support.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    def share(self, n: int) -> Share:
        """This process's part of any batch of `n` examples.

        Raises:
            ConfigInvalid: a process would have no examples.
        """
        if n < self.size:
            raise BatchNotDivisible(n=n, devices=self.size)
        return Share(self, n)

    def seed(self, seed: int) -> int:
        """A seed for draws that belong to examples, such as dropout masks. It differs between processes."""
        return derive_seed(seed, "rank", self.rank) if self.rank else seed

    def any(self, flags: list[bool]) -> list[bool]:
        """For each flag, whether it is set in any process."""
        if self.size == 1 or not flags:
            return flags
        found = torch.tensor(flags, dtype=torch.int32, device=self.device)
        _all_reduce(found, dist.ReduceOp.MAX)
        return [bool(flag) for flag in cast("list[int]", found.tolist())]


@dataclass(frozen=True)
class Share:
    """One process's part of batches of `n` examples."""

    group: Group
    n: int

    @property
    def part(self) -> slice:
        """A contiguous part of the batch. The sizes of all parts differ by at most one."""
        return self._part_of(self.group.rank)

    def _part_of(self, rank: int) -> slice:
        return slice(rank * self.n // self.group.size, (rank + 1) * self.n // self.group.size)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the batch; `value` is the mean over this process's part. The result has no autograd graph."""
        if self.group.size == 1:
            return value
        weighted = value.detach() * ((self.part.stop - self.part.start) / self.n)
        _all_reduce(weighted, dist.ReduceOp.SUM)
        return weighted

    def means(self, values: Tensors) -> Tensors:
        """`mean` of each tensor, in order: one message per tensor."""
        return {name: self.mean(value) for name, value in values.items()}

    def total(self, value: Tensor) -> Tensor:
        """The sum of `value` over all processes. The result has no autograd graph."""
        if self.group.size == 1:
            return value
        total = value.detach().clone()
        _all_reduce(total, dist.ReduceOp.SUM)
        return total

    def gather(self, rows: Tensor, dim: int) -> Tensor:
        """The entries of all processes along `dim`, in order.

        Args:
            rows: has the same number of entries, 1 or more, for each example of this process's part.
        """
        if self.group.size == 1:
            return rows
        sizes = [part.stop - part.start for part in map(self._part_of, range(self.group.size))]
        rows = rows.detach().movedim(dim, 0).contiguous()
        per_example = len(rows) // sizes[self.group.rank]
        # Messages of one length, as bytes: backends do not exchange every dtype.
        padded = rows.new_zeros((max(sizes) * per_example, *rows.shape[1:]))
        padded[: len(rows)] = rows
        message = padded.reshape(-1).view(torch.uint8)
        received = [torch.empty_like(message) for _ in sizes]
        with _peers():
            dist.all_gather(received, message)
        parts = [
            data.view(rows.dtype).reshape(padded.shape)[: n * per_example]
            for data, n in zip(received, sizes, strict=True)
        ]
        return torch.cat(parts).movedim(0, dim)

    def settle(self, before: Tensors, after: Tensors) -> Tensors:
        """Buffers after a training step, equal in all processes: buffers that changed are averaged."""
        if self.group.size == 1:
            return after
        names = [name for name, buffer in after.items() if buffer.is_floating_point()]
        changed = self.group.any([not torch.equal(before[name], after[name]) for name in names])
        return after | {name: self.mean(after[name]) for name, is_so in zip(names, changed, strict=True) if is_so}


ALONE = Group()
WHOLE = Share(ALONE, 1)


def _all_reduce(value: Tensor, reduction: dist.ReduceOp.RedOpType) -> None:
    with _peers():
        dist.all_reduce(value, reduction)


@contextmanager
def _peers() -> Generator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(f"another process of the trial does not answer ({error})") from error
