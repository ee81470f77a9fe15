"""Named tensors in the safetensors format, from any device and layout: as bytes, or as a file that is read in parts."""

from __future__ import annotations

import math
from collections.abc import Mapping

import safetensors.torch
import torch
from torch import Tensor

from nestor.program_format.safetensors_header import described, written
from nestor_engine.objective import Tensors

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def to_safetensors(tensors: Tensors, metadata: dict[str, str] | None = None) -> bytes:
    """The tensors as safetensors; `metadata` goes into the header."""
    # Cloned, because safetensors refuses tensors that share memory, such as an input that is its own target.
    apart = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    return safetensors.torch.save(apart, metadata=metadata)


class SafetensorsFile:
    """The bytes of a safetensors file, of which only the parts that are asked for, `file[start:stop]`, are in memory.

    It refers to the tensors, which must not change meanwhile. Each has at least one dimension.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        # The widest numbers first, so that all are aligned.
        ordered = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))
        self._tensors = [tensor.detach() for _, tensor in ordered]
        self._header = written(described((name, NAMES[one.dtype], one.shape, one.nbytes) for name, one in ordered))
        self._size = len(self._header) + sum(tensor.nbytes for tensor in self._tensors)

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return self[:]

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        found, at = [self._header[start:stop]], len(self._header)
        for tensor in self._tensors:
            first, last = max(start - at, 0), min(stop - at, tensor.nbytes)
            if first < last:
                found.append(_bytes_of(tensor, first, last))
            at += tensor.nbytes
        return b"".join(found)


def _bytes_of(tensor: Tensor, start: int, stop: int) -> bytes:
    """The bytes from `start` to before `stop`, of which only the rows that hold them are copied."""
    row = tensor.nbytes // len(tensor)
    first, last = start // row, math.ceil(stop / row)
    rows = tensor[first:last].cpu().contiguous().view(-1).view(torch.uint8)
    return rows[start - first * row : stop - first * row].numpy().tobytes()
