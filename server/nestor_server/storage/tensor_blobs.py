"""Blobs read as safetensors: the header, the numbers, and one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy.orm import Session

from nestor_server.models import Blob
from nestor_server.storage import blobs, safetensors_header
from nestor_server.storage.safetensors_header import Header, Tensor


def header(session: Session, blob: Blob) -> Header:
    """The header of a safetensors blob. Only its bytes are read.

    Raises:
        Malformed: the blob is not a safetensors file.
    """
    length = Header.length(b"".join(blobs.read(session, blob, 0, 8)))
    return Header.parse(b"".join(blobs.read(session, blob, 0, length)), blob.size)


def first_not_finite(
    session: Session, blob: Blob, tensors: Iterable[Tensor], *, or_infinite: Callable[[Tensor], bool] = lambda _: False
) -> Tensor | None:
    """The first of `tensors` in the file that has a NaN or, unless `or_infinite` of it, an infinite number.

    It reads each chunk of the blob at most once, however many tensors the chunk holds.

    Raises:
        BlobNotFound, Unavailable: as `blobs.read`.
    """
    reader = _ForwardReader(session, blob)
    for tensor in sorted(tensors, key=lambda tensor: tensor.begin):
        pieces = reader.read(tensor.begin, tensor.end)
        if not safetensors_header.finite(tensor, pieces, or_infinite=or_infinite(tensor)):
            return tensor
    return None


class _ForwardReader:
    """Reads ranges of a blob in increasing order, and keeps the rest of the last chunk for the next range."""

    def __init__(self, session: Session, blob: Blob) -> None:
        self._session, self._blob = session, blob
        self._begin, self._piece = 0, b""  # bytes of the blob, and where they begin

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        while start < stop:
            if start >= self._begin + len(self._piece):
                self._begin, self._piece = start, next(blobs.read(self._session, self._blob, start))
            part = self._piece[start - self._begin : stop - self._begin]
            yield part
            start += len(part)


@dataclass(frozen=True)
class Slice:
    """A virtual file: `prefix`, then the bytes of `blob` from `begin` to before `end`."""

    prefix: bytes
    blob: Blob
    begin: int
    end: int

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
