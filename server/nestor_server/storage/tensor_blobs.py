"""Blobs read as safetensors: the header, the numbers, and one tensor at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sqlalchemy.orm import Session

from nestor.program_format.safetensors_header import ITEM_BYTES
from nestor_server.models import Blob
from nestor_server.storage import blobs
from nestor_server.storage.number_check import INFINITE, NAN, NumberCheck, decoded, ordered
from nestor_server.storage.safetensors_header import Header, Tensor

HEAD_BYTES = 1024  # of a file, within which most headers end
HEADER_BYTES = 4 * 2**20  # of headers that are read at once
NEAR_BYTES = 512  # entries that are no farther apart are read together


def header(session: Session, blob: Blob) -> Header:
    """The header of a safetensors blob. Only its bytes are read.

    Raises:
        Malformed: the blob is not a safetensors file.
    """
    length = Header.length(b"".join(blobs.read(session, blob, 0, 8)))
    return Header.parse(b"".join(blobs.read(session, blob, 0, length)), blob.size)


def first_not_finite(
    session: Session, blob: Blob, header: Header, *, or_infinite: Callable[[Tensor], bool] = lambda _: False
) -> Tensor | None:
    """The first tensor in the file that has a NaN or, unless `or_infinite` of it, an infinite number.

    An upload was checked as its bytes arrived. Other blobs, such as a worker's, are read here once.

    Raises:
        BlobNotFound, Unavailable: as `blobs.read`.
    """
    if blob.not_finite is None:
        check = NumberCheck(blob.size)
        for piece in blobs.read(session, blob):
            check.update(piece)
        blob.not_finite = check.not_finite
    tensors, has_nan = ordered(header), set(blob.not_finite[NAN])
    for position in sorted(has_nan.union(blob.not_finite[INFINITE])):
        if position in has_nan or not or_infinite(tensors[position]):
            return tensors[position]
    return None


def headers(session: Session, of: Sequence[Blob]) -> list[Header]:
    """The header of each of several safetensors blobs. Those of one trial's snapshots are alike, and parsed once.

    Raises:
        Malformed: a blob is not a safetensors file.
        BlobNotFound, Unavailable: as `blobs.gather`.
    """
    firsts = blobs.gather(session, [(blob, 0, min(blob.size, HEAD_BYTES)) for blob in of])
    parsed: dict[tuple[bytes, int], Header] = {}
    found: list[Header] = []
    lengths = [(blob, Header.length(first)) for blob, first in zip(of, firsts, strict=True)]
    for group in _within(HEADER_BYTES, lengths):
        rest = [(blob, HEAD_BYTES, length) for blob, length in group if length > HEAD_BYTES]
        rests = iter(blobs.gather(session, rest) if rest else ())
        for blob, length in group:
            first = firsts[len(found)]
            piece = first[:length] if length <= HEAD_BYTES else first + next(rests)
            if (piece, blob.size) not in parsed:
                parsed = {(piece, blob.size): Header.parse(piece, blob.size)}
            found.append(parsed[piece, blob.size])
    return found


def _within(limit: int, items: list[tuple[Blob, int]]) -> Iterator[list[tuple[Blob, int]]]:
    """Consecutive groups whose numbers add up to at most `limit`, or that have one item."""
    group: list[tuple[Blob, int]] = []
    total = 0
    for item in items:
        if group and total + item[1] > limit:
            yield group
            group, total = [], 0
        group.append(item)
        total += item[1]
    if group:
        yield group


def entries(session: Session, of: Sequence[tuple[Blob, Tensor]], index: Sequence[int]) -> list[list[float]]:
    """For each tensor, its entries with these flat indices, as Python's numbers. Few other bytes are read.

    Raises:
        BlobNotFound, Unavailable: as `blobs.gather`.
    """
    if not of or not index:
        return [[] for _ in of]
    groups = {
        dtype: _near(index, max(1, NEAR_BYTES // ITEM_BYTES[dtype])) for dtype in {tensor.dtype for _, tensor in of}
    }
    ranges: list[tuple[Blob, int, int]] = []
    for blob, tensor in of:
        size = ITEM_BYTES[tensor.dtype]
        ranges += (
            (blob, tensor.begin + first * size, tensor.begin + end * size) for first, end in groups[tensor.dtype]
        )
    pieces = iter(blobs.gather(session, ranges))
    found: list[list[float]] = []
    for _, tensor in of:
        values: dict[int, float] = {}
        for first, end in groups[tensor.dtype]:
            values |= zip(range(first, end), decoded(next(pieces), tensor.dtype).tolist(), strict=True)
        found.append([values[i] for i in index])
    return found


def _near(index: Sequence[int], apart: int) -> list[tuple[int, int]]:
    """The ranges (first, end) that hold the indices, in order. No two indices in a range are farther than `apart`."""
    ordered = sorted(set(index))
    cuts = [at for at in range(1, len(ordered)) if ordered[at] - ordered[at - 1] > apart]
    return [(ordered[at], ordered[until - 1] + 1) for at, until in pairwise([0, *cuts, len(ordered)])]


def numbers(session: Session, blob: Blob, tensor: Tensor) -> list[float]:
    """All entries of a small tensor, as Python's numbers.

    Raises:
        BlobNotFound, Unavailable: as `blobs.read`.
    """
    return decoded(b"".join(blobs.read(session, blob, tensor.begin, tensor.end)), tensor.dtype).tolist()


@dataclass(frozen=True)
class Slice:
    """A virtual file: `prefix`, then pieces of `blob`, each of `length` bytes, that begin at `begins`, in order."""

    prefix: bytes
    blob: Blob
    begins: Sequence[int]
    length: int

    @staticmethod
    def whole(blob: Blob) -> Slice:
        """The blob as it is."""
        return Slice(b"", blob, (0,), blob.size)

    @property
    def version(self) -> str:
        """Equal for equal bytes, without reading those of the blob."""
        digest = self.blob.digest.removeprefix("sha256:")
        if not self.prefix:  # the whole blob
            return digest
        parts = hashlib.sha256(self.prefix + repr((self.length, *self.begins)).encode())
        return f"{digest}-{parts.hexdigest()}"

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.prefix) + self.length * len(self.begins)

    def read(self, session: Session, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` to before `stop`, in pieces.

        Raises:
            BlobNotFound, Unavailable: as `blobs.read`.
        """
        stop = self.size if stop is None else min(stop, self.size)
        if piece := self.prefix[start:stop]:
            yield piece
        start, stop = max(0, start - len(self.prefix)), stop - len(self.prefix)
        if start >= stop:
            return
        ranges: list[tuple[Blob, int, int]] = []
        for i in range(start // self.length, -(-stop // self.length)):
            begin, shift = self.begins[i], self.begins[i] - i * self.length
            ranges.append((self.blob, max(start + shift, begin), min(stop + shift, begin + self.length)))
        if len(ranges) == 1:
            yield from blobs.read(session, *ranges[0])
        else:
            yield from blobs.gather(session, ranges)
