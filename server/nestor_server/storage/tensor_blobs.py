"""Blobs read as safetensors: the header, and one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator
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


def finite(session: Session, blob: Blob, tensor: Tensor, *, or_infinite: bool = False) -> bool:
    """Whether no number of the tensor is NaN or, unless `or_infinite`, infinite. Reads all its bytes."""
    return safetensors_header.finite(
        tensor, blobs.read(session, blob, tensor.begin, tensor.end), or_infinite=or_infinite
    )


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
