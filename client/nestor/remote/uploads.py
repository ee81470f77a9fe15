"""Bytes to the server by their digest: what it has is not sent again, what was cut off goes on where it stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nestor.errors import NestorError, OffsetMismatch
from nestor.remote.transport import Transport, read
from nestor.schemas import CHUNK_BYTES, BlobCreate, Upload

if TYPE_CHECKING:
    from tqdm import tqdm

BAR_FROM_BYTES = 16 * CHUNK_BYTES  # smaller uploads are over before anyone wonders
BARREN_ATTEMPTS = 5  # continuations of one upload in a row that did not bring it further


def upload(transport: Transport, data: bytes, *, what: str = "upload", show_progress_bar: bool = True) -> str:
    """Have the server hold `data`; its digest.

    Raises:
        NestorError: the server refuses the bytes, or stays out of reach.
    """
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    furthest, barren = -1, 0
    with _bar(len(data), what, show=show_progress_bar) as bar:
        while True:
            standing = _begin(transport, digest, len(data))
            try:
                while standing.id is not None and standing.offset < standing.size:
                    bar.update(standing.offset - bar.n)
                    standing = _send(transport, standing, data)
                bar.update(len(data) - bar.n)
                return digest
            except NestorError as error:
                # The chunk may have arrived all the same: only the server knows where the upload stands.
                if not (error.retryable or isinstance(error, OffsetMismatch)):
                    raise
                barren = 0 if standing.offset > furthest else barren + 1
                furthest = max(furthest, standing.offset)
                if barren >= BARREN_ATTEMPTS:
                    raise


def _begin(transport: Transport, digest: str, size: int) -> Upload:
    new = BlobCreate(digest=digest, size=size)
    return read(Upload, transport.request("POST", "/blobs", json=new.model_dump()))


def _send(transport: Transport, standing: Upload, data: bytes) -> Upload:
    chunk = data[standing.offset : standing.offset + CHUNK_BYTES]
    headers = {"Upload-Offset": str(standing.offset), "Content-Type": "application/octet-stream"}
    # Not repeated as it is: where the upload stands is asked anew.
    answer = transport.request("PATCH", f"/blobs/{standing.id}", retry=False, content=chunk, headers=headers)
    return standing.model_copy(update={"offset": int(answer.headers["Upload-Offset"])})


@contextmanager
def _bar(size: int, what: str, *, show: bool) -> Iterator[tqdm]:
    from tqdm.auto import tqdm

    hidden = not show or size < BAR_FROM_BYTES
    with tqdm(total=size, desc=what, unit="B", unit_scale=True, unit_divisor=1024, disable=hidden, leave=False) as bar:
        yield bar
