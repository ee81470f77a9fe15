"""Reads safetensors from untrusted files without torch: their tensors, and whether the numbers are finite."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestor.errors import ProgramInvalid, shown
from nestor.program_format import MAX_HEADER_BYTES, MAX_VALUES, Json, parse_json

MAX_DIMENSIONS = 16
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip


class Malformed(ValueError):
    """Not the safetensors format. The text is the reason, without a full stop."""


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies in its file. `dtype` is a key of `ITEM_BYTES`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int  # byte offsets in the file
    end: int


@dataclass(frozen=True)
class Header:
    """The tensors of a file by name. They fill it without gap or overlap."""

    tensors: dict[str, Tensor]
    start: int  # of the data

    @staticmethod
    def length(first: bytes) -> int:
        """The size of the whole header in bytes, from the first eight bytes of the file.

        Raises:
            Malformed: there are fewer than eight bytes, or the size is above `MAX_HEADER_BYTES`.
        """
        if len(first) < 8:
            raise Malformed("it is shorter than the eight bytes that every safetensors file begins with")
        length = int.from_bytes(first[:8], "little")
        if length > MAX_HEADER_BYTES:
            raise Malformed(
                f"its header is announced with {length} bytes, which is above the limit of {MAX_HEADER_BYTES}"
            )
        return 8 + length

    @staticmethod
    def parse(data: bytes, size: int) -> Header:
        """The header at the beginning of `data`, which is the beginning of a file of `size` bytes.

        Raises:
            Malformed: the file does not consist of tensors of known types without gap or overlap.
        """
        start = Header.length(data)
        if len(data) < start:
            raise Malformed("its header is cut off")
        try:
            entries = parse_json(data[8:start], what="its header", max_bytes=MAX_HEADER_BYTES, max_values=MAX_VALUES)
        except ProgramInvalid as error:
            raise Malformed(str(error.context["reason"])) from None
        if not isinstance(entries, dict):
            raise Malformed("its header is not a JSON object")
        entries.pop("__metadata__", None)
        tensors = {name: _tensor(name, entry, start) for name, entry in entries.items()}
        at = start
        for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.begin, tensor.end)):
            if tensor.begin != at:
                raise Malformed(f"the bytes of {shown(tensor.name)} do not follow those before them")
            at = tensor.end
        if at != size:
            raise Malformed(f"its tensors end at byte {at}, but the file has {size}")
        return Header(tensors, start)


def _tensor(name: str, entry: Json, start: int) -> Tensor:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]} if len(entry) == 3:
            pass
        case _:
            raise Malformed(f"the entry of {shown(name)} is not a dtype, a shape and two offsets")
    if dtype not in ITEM_BYTES:
        raise Malformed(f"{shown(name)} has the type {shown(dtype)}; known are {', '.join(ITEM_BYTES)}")
    sizes = tuple(n for n in shape if type(n) is int and n >= 0)
    # A product of many large numbers takes hours, so dimensions are counted before.
    if len(sizes) != len(shape) or len(sizes) > MAX_DIMENSIONS:
        raise Malformed(f"{shown(name)} has the shape {shown(shape)}; at most {MAX_DIMENSIONS} sizes are possible")
    if begin < 0 or end - begin != math.prod(sizes) * ITEM_BYTES[dtype]:
        raise Malformed(
            f"{shown(name)} has {end - begin} bytes, which does not match its shape {shown(shape)} of {dtype}"
        )
    return Tensor(name, dtype, sizes, start + begin, start + end)


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
    entry = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [0, tensor.end - tensor.begin]}
    header = json.dumps({tensor.name: entry}).encode()
    header += b" " * (-len(header) % 8)  # so that the data is aligned
    return len(header).to_bytes(8, "little") + header


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
