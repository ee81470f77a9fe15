"""Uploads bytes by their digest. Bytes that the server has are not sent again; a broken upload is resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from nestor.errors import ArgumentInvalid, NestorError, OffsetMismatch, shown
from nestor.remote.transport import Transport, offload, read
from nestor.schemas import CHUNK_BYTES, BlobCreate, Upload

if TYPE_CHECKING:
    from tqdm import tqdm


class Content(Protocol):
    """Bytes, or what makes them in parts: those of a data set are not copied as a whole."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> bytes: ...


BAR_FROM_BYTES = 16 * CHUNK_BYTES  # smaller uploads take too little time for a progress bar
MAX_STALLED_ATTEMPTS = 5  # consecutive attempts to resume an upload that gained no bytes


def upload(transport: Transport, data: Content, *, what: str = "upload", show_progress_bar: bool = True) -> str:
    """Store `data` on the server, and return its digest "sha256:…".

    Raises:
        ArgumentInvalid: `data` is something else than bytes.
        NestorError: the server refuses the bytes, or the upload makes no progress.
    """
    if not is_bytes(data):
        raise ArgumentInvalid(owner="client.upload", argument="data", given=shown(data), expected="bytes")
    digest = offload(digest_of, data)
    state, furthest, stalled = None, -1, 0
    with progress_bar(len(data), what, show=show_progress_bar) as bar:
        while True:
            try:
                state = _begin(transport, digest, len(data))
                # The server may take a part of a chunk. One that was restarted reads earlier bytes before it goes on.
                while state.id is not None and state.offset < state.size:
                    bar.update(state.offset - bar.n)
                    state = _send_chunk(transport, state, data)
                bar.update(len(data) - bar.n)
                return digest
            except NestorError as error:
                # The chunk may have arrived: only the server knows the offset.
                if state is None or not (error.retryable or isinstance(error, OffsetMismatch)):
                    raise
                stalled = 0 if state.offset > furthest else stalled + 1
                furthest = max(furthest, state.offset)
                if stalled >= MAX_STALLED_ATTEMPTS:
                    raise


def _begin(transport: Transport, digest: str, size: int) -> Upload:
    new = BlobCreate(digest=digest, size=size)
    return read(Upload, transport.request("POST", "/blobs", json=new.model_dump()))


def is_bytes(data: Any) -> bool:
    """Whether slices of `data` are bytes."""
    try:
        return isinstance(data[:0], bytes | bytearray | memoryview)
    except (TypeError, LookupError):
        return False


def digest_of(data: Content) -> str:
    """The SHA-256 of `data`, as blobs are named."""
    found = hashlib.sha256()
    for start in range(0, len(data), CHUNK_BYTES):
        found.update(data[start : start + CHUNK_BYTES])
    return f"sha256:{found.hexdigest()}"


def _send_chunk(transport: Transport, state: Upload, data: Content) -> Upload:
    chunk = data[state.offset : state.offset + CHUNK_BYTES]
    headers = {"Upload-Offset": str(state.offset), "Content-Type": "application/octet-stream"}
    # No retry with the same offset: the caller asks the server for the current one.
    answer = transport.request("PATCH", f"/blobs/{state.id}", retry=False, content=chunk, headers=headers)
    return state.model_copy(update={"offset": int(answer.headers["Upload-Offset"])})


@contextmanager
def progress_bar(size: int, what: str, *, show: bool) -> Generator[tqdm[NoReturn]]:
    """A progress bar of `size` bytes on stderr, which is hidden for small uploads."""
    from tqdm.auto import tqdm

    hidden = not show or size < BAR_FROM_BYTES
    with tqdm(total=size, desc=what, unit="B", unit_scale=True, unit_divisor=1024, disable=hidden, leave=False) as bar:
        yield bar
