"""Stores large blobs in the object store that `NESTOR_BLOB_URL` names.

A store takes no part in transactions. So a row of `UnusedObject` is committed before an object is written, and the
transaction that begins to refer to the object deletes the row. When the reference is deleted, a trigger adds a row.
Objects whose row is old enough are deleted. So a crash leaves no object behind, the store is never listed, and only
objects that this database wrote are deleted. An object is never overwritten, so readers see its bytes unchanged.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING
from uuid import UUID

import uuid_utils.compat
from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from nestor.errors import BlobUrlInvalid, MissingExtra, Unavailable
from nestor_server.database import settings_of
from nestor_server.models import UnusedObject
from nestor_server.settings import Settings

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

log = logging.getLogger(__name__)

WRITE_TIMEOUT = timedelta(days=1)  # after which an object whose transaction was not committed is deleted
SWEEP_LIMIT = 200  # objects deleted in one call
GAP_BYTES = 16 * 2**20  # between the ranges of one read, that are read and dropped to make fewer requests
CLIENT: ClientConfig = {
    "connect_timeout": "5s",
    "timeout": "60s",
    "allow_http": True,  # an http:// address in the setting is intended
}
RETRY: RetryConfig = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}


def is_for(session: Session, size: int) -> bool:
    """Whether a blob of `size` bytes goes to the object store."""
    settings = settings_of(session)
    return settings.blob_url is not None and size >= settings.large_blob_bytes


def is_object(name: str) -> bool:
    """Whether a name at the top of a store is the first part of a key, which `put` makes."""
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


def put(session: Session, blob_id: UUID, data: bytes) -> str:
    """Store `data` as an object, which is kept if this transaction is committed, and return its key.

    Raises:
        Unavailable: the store does not answer, or refuses.
    """
    store, key = _store(session), f"{blob_id}/{uuid_utils.compat.uuid7()}"
    with Session(session.get_bind()) as other, other.begin():
        other.execute(insert(UnusedObject).values(key=key, since=func.now() + WRITE_TIMEOUT))
    with _answering():
        store.put(key, data)
    session.execute(delete(UnusedObject).where(UnusedObject.key == key))
    return key


def read(session: Session, key: str, start: int, stop: int) -> bytes:
    """The bytes from `start` to before `stop`; empty if the object was deleted.

    Raises:
        Unavailable: the store does not answer, or refuses.
    """
    store = _store(session)
    with _answering():
        try:
            return bytes(store.get_range(key, start=start, end=stop))
        except FileNotFoundError:
            return b""


def read_ranges(session: Session, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """The bytes of each range (start, stop); empty if the object was deleted.

    Ranges that are near to each other are read by one request, with at most `GAP_BYTES` beside what is asked for.

    Raises:
        Unavailable: the store does not answer, or refuses.
    """
    store = _store(session)
    starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
    with _answering():
        try:
            pieces = store.get_ranges(key, starts=starts, ends=stops, coalesce=GAP_BYTES // max(1, len(ranges)))
            return [bytes(piece) for piece in pieces]
        except FileNotFoundError:
            return [b""] * len(ranges)


def delete_unused(session: Session) -> int:
    """Delete objects that have been unused for `NESTOR_OBJECT_GRACE_SECONDS`, and return their number.

    Raises:
        Unavailable: the store does not answer, or refuses.
    """
    if settings_of(session).blob_url is None:
        return 0
    store = _store(session)
    cutoff = func.now() - timedelta(seconds=settings_of(session).object_grace_seconds)
    due = (
        select(UnusedObject.key).where(UnusedObject.since < cutoff).limit(SWEEP_LIMIT).with_for_update(skip_locked=True)
    )
    keys = session.scalars(due).all()
    with _answering():
        for key in keys:
            with suppress(FileNotFoundError):  # it was never written, or an earlier deletion was not committed
                store.delete(key)
    session.execute(delete(UnusedObject).where(UnusedObject.key.in_(keys)))
    return len(keys)


def check(settings: Settings) -> None:
    """Ask the object store for an object that need not exist. Does nothing if there is no object store.

    Raises:
        MissingExtra, InvalidInput: `NESTOR_BLOB_URL` cannot be used.
        Unavailable: the store does not answer, or refuses.
    """
    if settings.blob_url is not None:
        store = open_store(settings.blob_url)
        with _answering(), suppress(FileNotFoundError):
            store.head("nothing")


@lru_cache(maxsize=8)
def open_store(url: str) -> ObjectStore:
    """The object store at `url`, without a connection. A directory that does not exist is created.

    Raises:
        MissingExtra, InvalidInput: `NESTOR_BLOB_URL` cannot be used.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ModuleNotFoundError as error:
        raise MissingExtra(what="NESTOR_BLOB_URL", package="obstore", extra="objects") from error
    try:
        if url.startswith("file:"):
            return from_url(url, mkdir=True)
        return from_url(url, client_options=CLIENT, retry_config=RETRY)
    except (BaseError, ValueError, OSError) as error:
        reason = str(error).split("\n")[0]
        raise BlobUrlInvalid(reason=reason) from error


def _store(session: Session) -> ObjectStore:
    url = settings_of(session).blob_url
    if url is None:
        raise Unavailable(part="The object store, for which this process has no NESTOR_BLOB_URL,")
    return open_store(url)


@contextmanager
def _answering() -> Generator[None]:
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError) as error:
        log.warning("the object store does not answer: %s", str(error).split("\n")[0])
        raise Unavailable(part="The object store") from error
