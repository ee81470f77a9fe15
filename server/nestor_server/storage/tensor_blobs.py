"""Blobs read as safetensors: the header, the numbers, and one tensor at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy.orm import Session

from nestor_server.models import Blob
from nestor_server.storage import blobs
from nestor_server.storage.number_check import INFINITE, NAN, NumberCheck, ordered
from nestor_server.storage.safetensors_header import Header, Tensor


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


@dataclass(frozen=True)
class Slice:
    """A virtual file: `prefix`, then the bytes of `blob` from `begin` to before `end`."""

    prefix: bytes
    blob: Blob
    begin: int
    end: int

    @staticmethod
    def whole(blob: Blob) -> Slice:
        """The blob as it is."""
        return Slice(b"", blob, 0, blob.size)

    @property
    def version(self) -> str:
        """Equal for equal bytes, without reading those of the blob."""
        digest = self.blob.digest.removeprefix("sha256:")
        if (self.prefix, self.begin, self.end) == (b"", 0, self.blob.size):
            return digest
        return f"{digest}-{self.begin}-{self.end}-{hashlib.sha256(self.prefix).hexdigest()}"

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.prefix) + self.end - self.begin

    def read(self, session: Session, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` to before `stop`, in pieces.

        Raises:
            BlobNotFound, Unavailable: as `blobs.read`.
        """
        stop = self.size if stop is None else min(stop, self.size)
        if piece := self.prefix[start:stop]:
            yield piece
        shift = self.begin - len(self.prefix)
        yield from blobs.read(session, self.blob, max(start + shift, self.begin), stop + shift)
