"""Blobs on the worker's disk by their digest, so that the next attempt or trial need not read the database.

All slots and processes of a machine share one directory, without a lock: a file gets its name when it is complete, a
file that is removed during a read stays readable, and the digest of every file is checked when it is read.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from nestor.errors import BlobDamaged

log = logging.getLogger(__name__)

PIECE_BYTES = 2**20
PART = ".part"  # suffix of files that are incomplete
ABANDONED_SECONDS = 86_400  # an incomplete file of this age has no writer any more

Pieces = Iterable[bytes]


class BlobCache:
    """Files in `directory` with a total size of at most `limit` bytes. The least recently used are removed first.

    If the directory cannot be written, every blob is fetched each time.
    """

    def __init__(self, directory: Path, limit: int) -> None:
        self._directory, self._limit = directory, limit

    def place(self, digest: str, target: Path, fetch: Callable[[], Pieces]) -> None:
        """Write the blob `digest` to `target`, from the cache or by `fetch`: a copy, because runners may change it.

        Raises:
            BlobDamaged: the fetched bytes have another digest.
            OSError: `target` cannot be written.
        """
        kept = self._path(digest)
        with suppress(OSError), kept.open("rb") as file:
            if _write(target, _pieces(file)) == digest:
                os.utime(kept)
                return
            log.warning("%s in the cache is damaged and is fetched again", digest)
            kept.unlink(missing_ok=True)
        if _write(target, fetch()) != digest:
            raise BlobDamaged(digest=digest)
        with target.open("rb") as file:
            self._keep(kept, target.stat().st_size, _pieces(file))

    def add(self, data: bytes) -> None:
        """Store bytes under their digest, if the limit allows it."""
        self._keep(self._path(f"sha256:{hashlib.sha256(data).hexdigest()}"), len(data), [data])

    def put_named(self, name: str, data: bytes) -> None:
        """Store bytes under a name that is not their digest. Readers must validate them."""
        if self.get_named(name) != data:
            with suppress(OSError):
                self._path(name).unlink()
            self._keep(self._path(name), len(data), [data])

    def get_named(self, name: str) -> bytes | None:
        """The bytes stored under `name`; None if they were removed or never stored."""
        with suppress(OSError):
            data = self._path(name).read_bytes()
            os.utime(self._path(name))
            return data
        return None

    @property
    def limit(self) -> int:
        """The largest number of bytes that all files together may have."""
        return self._limit

    def has(self, digest: str) -> bool:
        """Whether a file of this name is stored. Its contents may be damaged."""
        return self._path(digest).exists()

    def fetch(self, digest: str, size: int, pieces: Pieces) -> bool:
        """Store a blob that may be too large to be copied; whether its bytes have the digest, and are stored.

        Raises:
            OSError: the directory cannot be written.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._make_room(size)
        with NamedTemporaryFile(dir=self._directory, suffix=PART, delete=False) as part:
            path = Path(part.name)
        try:
            is_right = _write(path, pieces) == digest
            if is_right:
                path.chmod(0o644)  # runners may have another account, and get links to it
                path.replace(self._path(digest))
        finally:
            path.unlink(missing_ok=True)
        return is_right

    def linked(self, digest: str, target: Path) -> Path:
        """The file of a stored blob under another name, where the cache does not remove it.

        Across file systems it is the cache's own file, which may be removed before it is opened.
        """
        kept = self._path(digest)
        os.utime(kept)
        try:
            target.hardlink_to(kept)
        except OSError:
            return kept
        return target

    def _keep(self, kept: Path, size: int, pieces: Pieces) -> None:
        if size > self._limit:
            return
        try:
            if kept.exists():
                return
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(size)
            with NamedTemporaryFile(dir=self._directory, suffix=PART, delete=False) as part:
                try:
                    part.writelines(pieces)
                    part.flush()
                    Path(part.name).replace(kept)
                except OSError:
                    Path(part.name).unlink(missing_ok=True)  # a useless file must not occupy scarce space
                    raise
        except OSError as error:
            log.warning("cannot write to the cache in %s: %s", self._directory, error)

    def _make_room(self, size: int) -> None:
        """Remove the least recently used files until `size` more bytes are within the limit."""
        files: list[tuple[float, int, str]] = []
        for entry in os.scandir(self._directory):
            with suppress(FileNotFoundError):  # another process removes files, too
                files.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
        total = sum(nbytes for _, nbytes, _ in files) + size
        for used_at, nbytes, path in sorted(files):
            abandoned = path.endswith(PART) and used_at < time.time() - ABANDONED_SECONDS
            if total <= self._limit and not abandoned:
                continue
            Path(path).unlink(missing_ok=True)
            total -= nbytes

    def _path(self, digest: str) -> Path:
        return self._directory / digest.replace(":", "-")


def _pieces(file: IO[bytes]) -> Pieces:
    return iter(lambda: file.read(PIECE_BYTES), b"")


def _write(target: Path, pieces: Pieces) -> str:
    """Write `pieces` to `target` and return their digest."""
    seen = hashlib.sha256()
    with target.open("wb") as file:
        for piece in pieces:
            seen.update(piece)
            file.write(piece)
    return f"sha256:{seen.hexdigest()}"
