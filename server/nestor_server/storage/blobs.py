"""Blobs: bytes by their digest, stored in chunks. Uploads resume, and any range can be read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from uuid import UUID

from sqlalchemy import BigInteger, Integer, Uuid, cast, delete, func, select, true, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Session

from nestor.errors import (
    BlobNotFound,
    BlobSizeDiffers,
    ChunkTooLarge,
    DigestMismatch,
    OffsetMismatch,
    TooLarge,
    UploadNotFound,
    UploadTooLong,
)
from nestor.schemas import CHUNK_BYTES
from nestor_server.database import BINARY
from nestor_server.limits import quotas
from nestor_server.limits.quotas import LEAST_BYTES, Amounts
from nestor_server.models import Blob, BlobChunk
from nestor_server.storage import object_store, verification
from nestor_server.storage.verification import Verification

CHUNKS_READ_AGAIN = 8  # in one request, at most: a fraction of a second


def digest_of(data: bytes) -> str:
    """The digest in the form of the REST interface: `sha256:<hex>`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def announce(session: Session, owner_id: UUID, digest: str, size: int, *, limit: int) -> Blob:
    """Begin an upload, or return the existing one: complete, or to be continued at `offset`.

    In all cases the bytes are kept for `NESTOR_KEEP_UNUSED_DAYS`, so that a later request can refer to them.

    Raises:
        TooLarge: `size` is above `limit`.
        InvalidInput: the blob is stored already and has another size.
        QuotaExceeded
    """
    if size > limit:
        raise TooLarge(what="The upload", limit=limit, setting="NESTOR_MAX_BLOB_BYTES")
    known = select(Blob.id).where(Blob.owner_id == owner_id, Blob.digest == digest, Blob.size == size)
    if session.scalar(known) is None:
        quotas.take(session, owner_id, Amounts(bytes=max(size, LEAST_BYTES)))
    blob = _begin(session, owner_id, digest, size)
    blob.wanted_at = func.now()
    session.flush()
    return blob


def _begin(session: Session, owner_id: UUID, digest: str, size: int) -> Blob:
    """The blob of that digest, whose row is locked until the transaction ends."""
    new = insert(Blob).values(owner_id=owner_id, digest=digest, size=size)
    # An update that changes nothing: it locks the row, and waits for another transaction that may delete it.
    lock = new.on_conflict_do_update("uq_blobs_owner_digest", set_={"size": Blob.size}).returning(Blob)
    blob = session.scalars(lock, execution_options={"populate_existing": True}).one()
    if blob.size != size:
        if blob.complete:
            raise BlobSizeDiffers(digest=digest, stored=blob.size, size=size)
        # Another size was announced: start over, with another id, because servers know the bytes of this one.
        session.delete(blob)
        session.flush()
        return _begin(session, owner_id, digest, size)
    if size == 0 and not blob.complete:
        _complete(session, blob, Verification(size))
    session.flush()
    return blob


def upload(session: Session, owner_id: UUID, upload_id: UUID, *, lock: bool = False) -> Blob:
    """The upload with that id, complete or not.

    Raises:
        UploadNotFound: this owner has no such upload, or its bytes were discarded.
    """
    query = select(Blob).where(Blob.id == upload_id, Blob.owner_id == owner_id)
    blob = session.scalars(query.with_for_update() if lock else query).one_or_none()
    if blob is None:
        raise UploadNotFound(upload=str(upload_id))
    return blob


def append(session: Session, owner_id: UUID, upload_id: UUID, offset: int, data: bytes) -> Blob:
    """Store the next bytes of an upload. The last ones complete it if all bytes hash to the announced digest.

    They are hashed as they arrive. If this process has not hashed all bytes before them, because it was restarted or
    another one took those, it reads some of them again, at most `CHUNKS_READ_AGAIN` chunks, so that no request takes
    long. Until it has hashed all, it does not take the last byte of an upload. The returned `offset` is then lower than
    the end of `data`, and the client sends the rest again from there. So an upload is complete once all is taken.

    Raises:
        UploadNotFound, ChunkTooLarge
        OffsetMismatch: the upload continues at another offset.
        InvalidInput: more bytes than announced.
        DigestMismatch: the bytes have another digest. They are deleted, so the caller must commit.
        Unavailable: the object store does not answer.
    """
    if len(data) > CHUNK_BYTES:
        raise ChunkTooLarge(limit=CHUNK_BYTES)
    blob = upload(session, owner_id, upload_id, lock=True)
    if blob.offset != offset:
        raise OffsetMismatch(expected=blob.offset, actual=offset)
    if offset + len(data) > blob.size:
        raise UploadTooLong(size=blob.size)
    if blob.complete:
        return blob
    verified = verification.running.of(blob)
    for piece in islice(read(session, blob, verified.position, offset), CHUNKS_READ_AGAIN):
        verified = verified.after(piece)
    if verified.position < offset and offset + len(data) == blob.size:
        data = data[:-1]
    if data:
        blob.offset, blob.wanted_at = offset + len(data), func.now()
        _add(session, blob, offset, data)
        if verified.position == offset:
            verified = verified.after(data)
        session.flush()
    verification.keep_on_commit(session, blob, verified)
    if blob.offset == blob.size:
        _complete(session, blob, verified)
    return blob


def find(session: Session, owner_id: UUID, digest: str) -> Blob:
    """The complete blob of that digest.

    Raises:
        BlobNotFound: this owner has no such blob, or its upload is not complete.
    """
    blob = session.scalars(
        select(Blob).where(Blob.owner_id == owner_id, Blob.digest == digest, Blob.complete)
    ).one_or_none()
    if blob is None:
        raise BlobNotFound(digest=digest)
    return blob


def find_and_retain(session: Session, owner_id: UUID, digest: str) -> Blob:
    """Like `find`, for callers that will refer to the blob: it cannot be deleted before they commit.

    Raises:
        BlobNotFound: as `find`.
    """
    # An update instead of a lock: a deletion that waits for this transaction then checks the row again.
    retain = update(Blob).where(Blob.owner_id == owner_id, Blob.digest == digest).values(wanted_at=func.now())
    session.execute(retain.execution_options(synchronize_session=False))
    return find(session, owner_id, digest)


def read(session: Session, blob: Blob, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """The bytes from `start` to before `stop`, in pieces of at most `CHUNK_BYTES`.

    Raises:
        BlobNotFound: the blob was deleted during the read.
        Unavailable: the object store does not answer.
    """
    stop = blob.size if stop is None else min(stop, blob.size)
    while start < stop:
        # Only the bytes that are asked for, which are stored uncompressed, so that PostgreSQL reads no others.
        first = cast(func.least(start - BlobChunk.start, CHUNK_BYTES), Integer) + 1  # an object may be above 2 GiB
        data = func.substr(BlobChunk.data, first, cast(min(stop - start, CHUNK_BYTES), Integer))
        chunk = session.execute(
            select(BlobChunk.start, BlobChunk.size, BlobChunk.object, data.label("data"))
            .where(BlobChunk.blob_id == blob.id, BlobChunk.start <= start)
            .order_by(BlobChunk.start.desc())
            .limit(1),
            execution_options=BINARY,
        ).one_or_none()
        piece = b""
        if chunk is not None and start < chunk.start + chunk.size:
            begin, end = start - chunk.start, min(stop - chunk.start, chunk.size)
            if chunk.object is None:
                piece = chunk.data
            else:
                piece = object_store.read(session, chunk.object, begin, min(end, begin + CHUNK_BYTES))
        if not piece:
            raise BlobNotFound(digest=blob.digest)
        yield piece
        start += len(piece)


def gather(session: Session, ranges: Sequence[tuple[Blob, int, int]]) -> list[bytes]:
    """The bytes of many short ranges (blob, start, stop), in their order, by one statement.

    Raises:
        BlobNotFound: a blob was deleted during the read.
        Unavailable: the object store does not answer.
    """
    wanted = func.unnest(
        cast([blob.id for blob, _, _ in ranges], ARRAY(Uuid)),
        cast([start for _, start, _ in ranges], ARRAY(BigInteger)),
        cast([stop for _, _, stop in ranges], ARRAY(BigInteger)),
    ).table_valued("blob_id", "start", "stop", with_ordinality="i", name="wanted")
    wanted = wanted.render_derived()
    columns = wanted.c
    chunk = (
        select(BlobChunk.start, BlobChunk.object, BlobChunk.data)
        .where(BlobChunk.blob_id == columns.blob_id, BlobChunk.start <= columns.start)
        .order_by(BlobChunk.start.desc())
        .limit(1)
        .lateral("chunk")
    )
    first = cast(func.least(columns.start - chunk.c.start, CHUNK_BYTES), Integer) + 1  # an object may be above 2 GiB
    data = func.substr(chunk.c.data, first, cast(columns.stop - columns.start, Integer))
    rows = session.execute(
        select(columns.i, chunk.c.start, chunk.c.object, data.label("data")).join_from(wanted, chunk, true()),
        execution_options=BINARY,
    ).all()
    pieces = [b""] * len(ranges)
    of_objects: dict[str, list[tuple[int, int, int]]] = {}  # key → the number of a range, its start and stop
    for row in rows:
        number: int = row.i - 1
        if row.object is None:
            pieces[number] = row.data
        else:
            _, start, stop = ranges[number]
            of_objects.setdefault(row.object, []).append((number, start - row.start, stop - row.start))
    for key, parts in of_objects.items():
        read_parts = object_store.read_ranges(session, key, [(start, stop) for _, start, stop in parts])
        for (i, _, _), piece in zip(parts, read_parts, strict=True):
            pieces[i] = piece
    for i, (blob, start, stop) in enumerate(ranges):  # ranges that go on in the next chunk, and blobs that are gone
        if len(pieces[i]) < stop - start:
            pieces[i] += b"".join(read(session, blob, start + len(pieces[i]), stop))
    return pieces


def load(session: Session, blob: Blob) -> bytes:
    """All bytes of a blob. Use `read` for blobs that may be large.

    Raises:
        BlobNotFound, Unavailable: as `read`.
    """
    return b"".join(read(session, blob))


def store(session: Session, owner_id: UUID, data: bytes) -> Blob:
    """Store bytes that are in memory. Storing the same bytes again returns the same blob.

    Raises:
        Unavailable: the object store does not answer.
    """
    blob = _begin(session, owner_id, digest_of(data), len(data))
    if not blob.complete:
        session.execute(delete(BlobChunk).where(BlobChunk.blob_id == blob.id))  # chunks of an unfinished upload
        piece = len(data) if object_store.is_for(session, len(data)) else CHUNK_BYTES
        for start in range(0, len(data), piece):
            _add(session, blob, start, data[start : start + piece])
        blob.offset, blob.complete = len(data), True
        session.flush()
    return blob


def _add(session: Session, blob: Blob, start: int, data: bytes) -> None:
    chunk = BlobChunk(blob_id=blob.id, start=start, size=len(data))
    if object_store.is_for(session, blob.size):
        chunk.object = object_store.put(session, blob.id, data)
    else:
        chunk.data = data
    session.add(chunk)
    session.flush()  # together with the next ones it would be one statement of any size


def _complete(session: Session, blob: Blob, verified: Verification) -> None:
    if verified.digest != blob.digest:
        session.delete(blob)
        session.flush()
        expected, actual = (digest.removeprefix("sha256:") for digest in (blob.digest, verified.digest))
        raise DigestMismatch(expected=expected, actual=actual)
    blob.complete, blob.not_finite = True, verified.not_finite
