"""Finds the tensors of a safetensors file that are not finite, while the bytes of the file arrive."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nestor.program_format.safetensors_header import ITEM_BYTES
from nestor_server.storage.safetensors_header import NUMPY, Header, Malformed, Tensor

NAN, INFINITE = "nan", "infinite"
_TYPES = tuple(ITEM_BYTES)
_FLOATS = frozenset(dtype for dtype in ITEM_BYTES if dtype.startswith(("F", "BF")))


class NumberCheck:
    """The check of a file of `size` bytes, which `update` takes in order. Files of other formats pass it.

    It keeps the bytes of the header until they are complete, and then nine bytes for each tensor.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._at = 0  # bytes taken
        self._head: bytes | None = b""  # None: the header is complete
        self._bounds = array("q", [0])  # tensor i lies between the bounds i and i + 1
        self._types = b""  # position in _TYPES of each tensor
        self._rest = b""  # the beginning of a number whose other bytes come next
        self._found = dict[int, str]()

    @property
    def nbytes(self) -> int:
        """Approximate memory that it takes."""
        return len(self._head or b"") + self._bounds.itemsize * len(self._bounds) + len(self._types)

    @property
    def not_finite(self) -> dict[str, list[int]]:
        """The tensors with a NaN, and the others with an infinite number, by their positions in `ordered`."""
        return {kind: [i for i, found in sorted(self._found.items()) if found == kind] for kind in (NAN, INFINITE)}

    def copy(self) -> NumberCheck:
        """A check that goes on from here by itself."""
        other = copy(self)
        other._found = dict(self._found)  # all else is replaced and never changed
        return other

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        begin, self._at = self._at, self._at + len(data)
        if self._head is not None:
            self._head += data
            self._read_header(self._head)
        view, bounds = memoryview(data), self._bounds
        i = max(0, bisect_right(bounds, begin) - 1)
        while i < len(self._types) and bounds[i] < self._at:
            if (dtype := _TYPES[self._types[i]]) in _FLOATS:
                start = max(bounds[i], begin)
                self._check(i, dtype, start - bounds[i], view[start - begin : bounds[i + 1] - begin])
            i += 1

    def _read_header(self, head: bytes) -> None:
        try:
            if len(head) < min(8, self._size):
                return
            start = Header.length(head)
            if len(head) < start <= self._size:
                return
            tensors = ordered(Header.parse(head[:start], self._size))
        except Malformed:  # another format, with nothing to check
            start, tensors = self._size, []
        self._head = None
        self._bounds = array("q", [start, *(tensor.end for tensor in tensors)])
        self._types = bytes(_TYPES.index(tensor.dtype) for tensor in tensors)

    def _check(self, i: int, dtype: str, at: int, part: memoryview) -> None:
        """Check the bytes of tensor `i` that follow its first `at` bytes."""
        item = ITEM_BYTES[dtype]
        if at % item:
            part = memoryview(self._rest + part)
        whole = len(part) - len(part) % item
        self._rest = bytes(part[whole:])
        numbers = decoded(part[:whole], dtype)
        if self._found.get(i) != NAN and not np.isfinite(numbers).all():
            self._found[i] = NAN if np.isnan(numbers).any() else INFINITE


def ordered(header: Header) -> list[Tensor]:
    """The tensors in the order of their bytes."""
    return sorted(header.tensors.values(), key=lambda tensor: (tensor.begin, tensor.end))


def decoded(data: bytes | memoryview, dtype: str) -> NDArray[Any]:
    """The numbers of a tensor in one dimension; those of bfloat16 as float32."""
    if dtype == "BF16":  # numpy has no such type; it is the upper half of a float32
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, NUMPY[dtype])
