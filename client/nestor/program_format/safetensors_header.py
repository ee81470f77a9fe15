"""The header of a safetensors file: its tensors, and at which positions their bytes lie.

A file is the length of the header in eight bytes, little-endian; the header, which is JSON; and the bytes of the
tensors without gap. Anyone may have written it, so `Header.parse` trusts nothing. `written` is the one writer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nestor.errors import ProgramInvalid, shown
from nestor.program_format.limits import MAX_HEADER_BYTES, MAX_TENSORS, MAX_VALUES
from nestor.program_format.untrusted_json import Json, parse_json

METADATA = "__metadata__"  # the key of texts beside the tensors
MAX_DIMENSIONS = 16
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
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

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return self.end - self.begin


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
        entries.pop(METADATA, None)
        if len(entries) > MAX_TENSORS:
            raise Malformed(f"it has {len(entries):,} tensors, which is above the limit of {MAX_TENSORS:,}")
        tensors = {name: _tensor(name, entry, start) for name, entry in entries.items()}
        at = start
        for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.begin, tensor.end)):
            if tensor.begin != at:
                raise Malformed(f"the bytes of {shown(tensor.name)} do not follow those before them")
            at = tensor.end
        if at != size:
            raise Malformed(f"its tensors end at byte {at}, but the file has {size}")
        return Header(tensors, start)


def described(tensors: Iterable[tuple[str, str, Sequence[int], int]]) -> dict[str, Any]:
    """The entries of tensors whose bytes follow each other in this order, as `written` takes them.

    Args:
        tensors: the name, dtype, shape and size in bytes of each. If those of wide dtypes come first, all are aligned.
    """
    entries, end = dict[str, Any](), 0
    for name, dtype, shape, nbytes in tensors:
        begin, end = end, end + nbytes
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    return entries


def written(entries: Mapping[str, Any]) -> bytes:
    """All bytes before those of the tensors. Their number is a multiple of eight: readers expect aligned tensors."""
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


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
