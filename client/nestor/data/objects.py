"""Referenced objects of an S3 store, which are downloaded to a file and then mapped."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, cast

from nestor.data.reference import Ref
from nestor.errors import MissingExtra, ReferenceNotFound, Unavailable

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

PIECE_BYTES = 8 * 2**20
CLIENT: ClientConfig = {
    "connect_timeout": "5s",
    "timeout": "60s",
    "allow_http": True,  # an http:// endpoint in the environment is intended
}
RETRY: RetryConfig = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}


def downloaded(ref: Ref) -> Path:
    """The object's file in this user's cache, which is downloaded if the object is not the one of the last time.

    Raises:
        ReferenceNotFound: there is no such bucket or object, or the credentials do not allow it.
        Unavailable: the store does not answer.
        MissingExtra: obstore is not installed.
    """
    import platformdirs

    version, _ = look_up(ref)
    directory = Path(platformdirs.user_cache_dir("nestor")) / "objects"
    kept = directory / hashlib.sha256(f"{ref.uri}\0{version}".encode()).hexdigest()
    if not kept.exists():
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=directory, suffix=".part", delete=False) as part:
                try:
                    part.writelines(pieces(ref))
                    part.flush()
                    Path(part.name).replace(kept)
                except BaseException:
                    Path(part.name).unlink(missing_ok=True)
                    raise
        except OSError as error:
            reason = f"{directory} cannot be written ({error.strerror or error})"
            raise ReferenceNotFound(uri=ref.uri, machine="this machine", reason=reason) from error
    return kept


def look_up(ref: Ref, *, machine: str = "this machine") -> tuple[str, int]:
    """What identifies the object's present contents, and its size in bytes.

    Raises:
        ReferenceNotFound, Unavailable, MissingExtra: as `downloaded`; the message names the `machine`.
    """
    store, key = _store(ref)
    with _answering(ref, machine):
        found = cast("dict[str, Any]", store.head(key))
    return f"{found.get('e_tag')} {found.get('version')} {found['last_modified']} {found['size']}", int(found["size"])


def pieces(ref: Ref, *, machine: str = "this machine") -> Iterator[bytes]:
    """The bytes of the object, in pieces.

    Raises:
        ReferenceNotFound, Unavailable, MissingExtra: as `downloaded`; the message names the `machine`.
    """
    store, key = _store(ref)
    with _answering(ref, machine):
        for piece in store.get(key).stream(min_chunk_size=PIECE_BYTES):
            yield bytes(piece)


def _store(ref: Ref) -> tuple[ObjectStore, str]:
    """The bucket as a store, without a connection, and the key."""
    try:
        from obstore.store import from_url
    except ModuleNotFoundError as error:
        raise MissingExtra(what=f"The reference {ref.uri!r}", package="obstore", extra="objects") from error
    bucket, _, key = ref.path.partition("/")
    return from_url(f"s3://{bucket}", client_options=CLIENT, retry_config=RETRY), key


@contextmanager
def _answering(ref: Ref, machine: str) -> Generator[None]:
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except FileNotFoundError as error:
        raise ReferenceNotFound(uri=ref.uri, machine=machine, reason="there is no such bucket or object") from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        reason = "the credentials in its environment do not allow it"
        raise ReferenceNotFound(uri=ref.uri, machine=machine, reason=reason) from error
    except (BaseError, OSError) as error:
        raise Unavailable(part=f"The object store of {ref.uri}") from error
