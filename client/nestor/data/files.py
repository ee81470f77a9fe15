"""Where the bytes of a reference are on this machine, and their digest."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path

from nestor.data import objects
from nestor.data.reference import Ref
from nestor.errors import ReferenceNotFound

PIECE_BYTES = 2**22


@dataclass(frozen=True)
class FileIdentity:
    """What changes when a file is replaced or written to."""

    path: str
    size: int
    mtime_ns: int
    inode: int

    @staticmethod
    def of(path: Path) -> FileIdentity:
        """The identity of the file at `path` now.

        Raises:
            OSError: there is no such file.
        """
        found = path.stat()
        return FileIdentity(str(path), found.st_size, found.st_mtime_ns, found.st_ino)

    @property
    def key(self) -> str:
        """A name for caches."""
        return hashlib.sha256("\0".join(map(str, astuple(self))).encode()).hexdigest()


def local_file(ref: Ref) -> Path:
    """The file on this machine that has the bytes of `ref`; an object is downloaded once.

    Raises:
        ReferenceNotFound: there is no such file or object, or it cannot be read.
        MissingExtra: objects need obstore.
    """
    if ref.scheme == "s3":
        return objects.downloaded(ref)
    path = Path(ref.path)
    expect_file(ref, path, machine="this machine")
    return path


def expect_file(ref: Ref, path: Path, *, machine: str) -> None:
    """Check that `path` is a plain file that this process may read.

    Raises:
        ReferenceNotFound: it is not; the message names the `machine`.
    """
    reason = None
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            reason = "it is a directory"
        elif not stat.S_ISREG(mode):
            reason = "it is not a plain file"
        elif not os.access(path, os.R_OK):
            reason = "the permission is denied"
    except FileNotFoundError:
        reason = "there is no such file"
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
    if reason is not None:
        raise ReferenceNotFound(uri=ref.uri, machine=machine, reason=reason)


_digests: dict[FileIdentity, str] = {}


def digest_of(path: Path, *, check: Callable[[], None] = lambda: None) -> str:
    """The SHA-256 of a file, as "sha256:…". A file that did not change is read once per process.

    Args:
        check: called every few megabytes; it may raise an error to end the reading.
    """
    identity = FileIdentity.of(path)
    if identity not in _digests:
        seen = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                seen.update(piece)
                check()
        _digests[identity] = f"sha256:{seen.hexdigest()}"
    return _digests[identity]
