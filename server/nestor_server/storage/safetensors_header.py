"""The numbers and the formats of the tensors in a safetensors file, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestor.program_format.safetensors_header import ITEM_BYTES, Tensor, described, written
from nestor.program_format.safetensors_header import Header as Header
from nestor.program_format.safetensors_header import Malformed as Malformed

NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip


def finite(tensor: Tensor, pieces: Iterable[bytes], *, or_infinite: bool = False) -> bool:
    """Whether no number of the tensor is NaN or, unless `or_infinite`, infinite.

    `pieces` are the bytes of the tensor, split anywhere.
    """
    if not tensor.dtype.startswith(("F", "BF")):
        return True
    arrays = (_numbers(tensor.dtype, piece) for piece in _whole(pieces, ITEM_BYTES[tensor.dtype]))
    return not any(bool(np.isnan(a).any() if or_infinite else (~np.isfinite(a)).any()) for a in arrays)


def _numbers(dtype: str, data: bytes) -> NDArray[Any]:
    if dtype == "BF16":  # numpy has no such type; it is the upper half of a float32
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, NUMPY[dtype])


def _whole(pieces: Iterable[bytes], item: int) -> Iterator[bytes]:
    """The same bytes, split between items."""
    rest = b""
    for piece in pieces:
        piece = rest + piece
        cut = len(piece) - len(piece) % item
        rest = piece[cut:]
        yield piece[:cut]


def safetensors_prefix(tensor: Tensor) -> bytes:
    """The bytes before the data in a safetensors file of this tensor alone."""
    return written(described([(tensor.name, tensor.dtype, tensor.shape, tensor.nbytes)]))


def npy_prefix(tensor: Tensor) -> bytes:
    """The header of an .npy file (format 1.0).

    Raises:
        Malformed: numpy has no such data type.
    """
    if tensor.dtype not in NUMPY:
        raise Malformed(f"numpy has no {tensor.dtype}")
    header = repr({"descr": NUMPY[tensor.dtype], "fortran_order": False, "shape": tensor.shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
