"""A snapshot in one block of memory of its own."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MAPPED_BYTES = 64 * 2**10  # from this size on, a snapshot has a memory mapping of its own
ALIGNMENT = 16  # bytes; the largest element of a tensor


@final
@dataclass(frozen=True)
class Packed:
    """Values of tensors, on the host, without a tensor.

    A tensor leaves a small block in the heap. As a snapshot lives long, this block splits the freed memory around it
    into pieces that are too small for the next large tensor, so the heap would grow by about a snapshot with each one.
    """

    _tensors: dict[str, tuple[torch.dtype, torch.Size, int]]  # with the offset of the first byte
    _block: mmap.mmap | bytearray

    @classmethod
    def of(cls, hparams: dict[str, Tensor]) -> Packed:
        """A copy of these tensors."""
        tensors: dict[str, tuple[torch.dtype, torch.Size, int]] = {}
        end = 0
        for name, value in hparams.items():
            tensors[name] = value.dtype, value.shape, end
            end += -(-value.nbytes // ALIGNMENT) * ALIGNMENT
        packed = cls(tensors, mmap.mmap(-1, end) if end >= MAPPED_BYTES else bytearray(end))
        for name, value in packed.tensors().items():
            value.copy_(hparams[name])
        return packed

    @property
    def nbytes(self) -> int:
        """Bytes of the block."""
        return len(self._block)

    def tensors(self) -> dict[str, Tensor]:
        """Tensors that read this memory, and keep it."""
        import torch

        found: dict[str, Tensor] = {}
        for name, (dtype, shape, begin) in self._tensors.items():
            count = shape.numel()
            flat = torch.frombuffer(self._block, dtype=dtype, count=count, offset=begin) if count else torch.empty(0)
            found[name] = flat.to(dtype).view(shape)  # an empty tensor has no place in the block
        return found
