"""The second home of blobs: what is large lies in an object store, if `NESTOR_BLOB_URL` names one.

A store takes no part in transactions, so each object is written under a note, committed before, that nothing refers to
it. The transaction that begins to refer to it takes the note away; when the reference goes, a trigger makes another.
What a note has named for long enough is deleted. So no crash leaves an object behind, the store is never listed, and
nothing is deleted that this database did not write. An object is never written twice: what is read cannot change.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING
from uuid import UUID

import uuid_utils.compat
from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from nestor.errors import InvalidInput, MissingExtra, Unavailable
from nestor_server.database import settings_of
from nestor_server.models import UnusedObject
from nestor_server.settings import Settings

if TYPE_CHECKING:
    from obstore.store import ObjectStore

log = logging.getLogger(__name__)

WRITING = timedelta(days=1)  # after which an object whose transaction never came is deleted
AT_ONCE = 200  # objects in one sweep
CLIENT = {"connect_timeout": "5s", "timeout": "60s", "allow_http": True}  # whoever writes http:// there means it
RETRY = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}


def is_for(session: Session, size: int) -> bool:
    """Whether a blob of `size` bytes goes to the object store."""
    ours = settings_of(session)
    return ours.blob_url is not None and size >= ours.large_blob_bytes


def put(session: Session, blob_id: UUID, data: bytes) -> str:
    """Store `data` as an object that lasts if this transaction is committed; its key.

    Raises:
        Unavailable: the store does not answer, or refuses.
    """
    store, key = _store(session), f"{blob_id}/{uuid_utils.compat.uuid7()}"
    with Session(session.get_bind()) as other, other.begin():
        other.execute(insert(UnusedObject).values(key=key, since=func.now() + WRITING))
    with _answering():
        store.put(key, data)
    session.execute(delete(UnusedObject).where(UnusedObject.key == key))
    return key


def read(session: Session, key: str, start: int, stop: int) -> bytes:
    """The bytes from `start` to before `stop`; none when the object is gone.

    Raises:
        Unavailable: the store does not answer, or refuses.
    """
    store = _store(session)
    with _answering():
        try:
            return bytes(store.get_range(key, start=start, end=stop))
        except FileNotFoundError:
            return b""


def sweep(session: Session) -> int:
    """Delete objects that have been without a use for long enough; how many.

    Raises:
        Unavailable: the store does not answer, or refuses.
    """
    if settings_of(session).blob_url is None:
        return 0
    store = _store(session)
    ago = func.now() - timedelta(seconds=settings_of(session).object_grace_seconds)
    due = select(UnusedObject.key).where(UnusedObject.since < ago).limit(AT_ONCE).with_for_update(skip_locked=True)
    keys = session.scalars(due).all()
    with _answering():
        for key in keys:
            with suppress(FileNotFoundError):  # it never came, or an earlier sweep was not committed
                store.delete(key)
    session.execute(delete(UnusedObject).where(UnusedObject.key.in_(keys)))
    return len(keys)


def check(settings: Settings) -> None:
    """
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
    """
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
        return from_url(url, client_options=CLIENT, retry_config=RETRY)  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownVariableType] one overload for each scheme
    except (BaseError, ValueError, OSError) as error:
        reason = str(error).split("\n")[0]
        sentence = f"NESTOR_BLOB_URL must be like file:///srv/nestor or s3://bucket/prefix: {reason}."
        raise InvalidInput(reason=sentence) from error


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
