"""Uploads bytes by their digest. Bytes that the server has are not sent again; a broken upload is resumed.

Written by `python -m nestor.remote.asynchronous` from nestor.remote.uploads.
"""

from __future__ import annotations

import asyncio

from nestor.errors import ArgumentInvalid, NestorError, OffsetMismatch, shown
from nestor.remote.asynchronous.transport import AsyncTransport
from nestor.remote.transport import read
from nestor.remote.uploads import MAX_STALLED_ATTEMPTS, Content, digest_of, is_bytes, progress_bar
from nestor.schemas import CHUNK_BYTES, BlobCreate, Upload


async def upload(
    transport: AsyncTransport, data: Content, *, what: str = "upload", show_progress_bar: bool = True
) -> str:
    """Store `data` on the server, and return its digest "sha256:…".

    Raises:
        ArgumentInvalid: `data` is something else than bytes.
        NestorError: the server refuses the bytes, or the upload makes no progress.
    """
    if not is_bytes(data):
        raise ArgumentInvalid(owner="client.upload", argument="data", given=shown(data), expected="bytes")
    digest = await asyncio.to_thread(digest_of, data)
    state, furthest, stalled = None, -1, 0
    with progress_bar(len(data), what, show=show_progress_bar) as bar:
        while True:
            try:
                state = await _begin(transport, digest, len(data))
                # The server may take a part of a chunk. One that was restarted reads earlier bytes before it goes on.
                while state.id is not None and state.offset < state.size:
                    bar.update(state.offset - bar.n)
                    state = await _send_chunk(transport, state, data)
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


async def _begin(transport: AsyncTransport, digest: str, size: int) -> Upload:
    new = BlobCreate(digest=digest, size=size)
    return read(Upload, await transport.request("POST", "/blobs", json=new.model_dump()))


async def _send_chunk(transport: AsyncTransport, state: Upload, data: Content) -> Upload:
    chunk = data[state.offset : state.offset + CHUNK_BYTES]
    headers = {"Upload-Offset": str(state.offset), "Content-Type": "application/octet-stream"}
    # No retry with the same offset: the caller asks the server for the current one.
    answer = await transport.request("PATCH", f"/blobs/{state.id}", retry=False, content=chunk, headers=headers)
    return state.model_copy(update={"offset": int(answer.headers["Upload-Offset"])})
