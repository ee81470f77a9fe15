"""Several processes that compute one trajectory together: each takes its part of every batch.

Gradients, curvature products, losses and metrics are means over examples, so the mean over processes of what each
computes on its part is what one would compute on all. All processes hold the same state, bit for bit, and take the
same decisions: only results are exchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from nestor.errors import BatchNotDivisible
from nestor_engine.objective import Tensors
from nestor_engine.tensors.random import derive_seed


class PeerLost(Exception):
    """Another process of the group does not answer: nothing can be computed any more, and no problem is to blame."""


@dataclass(frozen=True)
class Group:
    """This process's place among `size` processes of torch's default process group; one alone needs none.

    Attributes:
        rank: from 0.
        device: where small messages are put; what the group's backend can send from.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    def share(self, n: int) -> Share:
        """This process's part of any batch of `n` examples.

        Raises:
            ConfigInvalid: one process would have none.
        """
        if n < self.size:
            raise BatchNotDivisible(n=n, devices=self.size)
        return Share(self, n)

    def seed(self, seed: int) -> int:
        """A seed for draws that belong to examples, such as dropout masks: each process has examples of its own."""
        return derive_seed(seed, "rank", self.rank) if self.rank else seed

    def any(self, flags: list[bool]) -> list[bool]:
        """Of each flag, whether it is set anywhere."""
        if self.size == 1 or not flags:
            return flags
        found = torch.tensor(flags, dtype=torch.int32, device=self.device)
        _reach(lambda: dist.all_reduce(found, dist.ReduceOp.MAX))
        return [bool(flag) for flag in found.tolist()]


@dataclass(frozen=True)
class Share:
    """One process's part of batches of `n` examples."""

    group: Group
    n: int

    @property
    def part(self) -> slice:
        """Contiguous, and as large as the others' or by one larger."""
        rank, size = self.group.rank, self.group.size
        return slice(rank * self.n // size, (rank + 1) * self.n // size)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the batch, where `value` is the mean over this process's part; without a graph."""
        if self.group.size == 1:
            return value
        weighted = value.detach() * ((self.part.stop - self.part.start) / self.n)
        _reach(lambda: dist.all_reduce(weighted))
        return weighted

    def means(self, values: Tensors) -> Tensors:
        """`mean` of each tensor, in order: one message per tensor."""
        return {name: self.mean(value) for name, value in values.items()}

    def settle(self, before: Tensors, after: Tensors) -> Tensors:
        """Buffers after a training step, the same everywhere: what a step changed, such as running statistics, is
        averaged."""
        if self.group.size == 1:
            return after
        names = [name for name, buffer in after.items() if buffer.is_floating_point()]
        changed = self.group.any([not torch.equal(before[name], after[name]) for name in names])
        return after | {name: self.mean(after[name]) for name, is_so in zip(names, changed, strict=True) if is_so}


ALONE = Group()
WHOLE = Share(ALONE, 1)


def _reach(collective: Callable[[], object]) -> None:
    try:
        collective()
    except RuntimeError as error:
        raise PeerLost(f"another process of the trial does not answer ({error})") from error
