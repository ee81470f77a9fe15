"""What trials read, kept on the worker's disk by its digest, so that coming back costs no way to the database.

All slots and processes of a machine share one directory, without a lock: a file is whole from the moment it has its
name, one that is removed while it is read stays readable, and what is read is believed only if its bytes have the
digest that was asked for.
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
PART = ".part"  # the end of the name of a file that is not whole yet, or never will be
ABANDONED_SECONDS = 86_400  # after which a part's writer is taken to be gone

Pieces = Iterable[bytes]


class Cache:
    """Files by digest in `directory`, at most `limit` bytes together; those not used for longest go first.

    It is a convenience: where there is no room, or no right to write, everything is fetched each time.
    """

    def __init__(self, directory: Path, limit: int) -> None:
        self._directory, self._limit = directory, limit

    def place(self, digest: str, target: Path, fetch: Callable[[], Pieces]) -> None:
        """Write the bytes of that digest to `target`: a copy, for a runner may do with its files what it likes.

        Raises:
            BlobDamaged: what was fetched has another digest.
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
        """Keep bytes that will be asked for, if there is room."""
        self._keep(self._path(f"sha256:{hashlib.sha256(data).hexdigest()}"), len(data), [data])

    def note(self, name: str, data: bytes) -> None:
        """Keep bytes under a name that is no digest of theirs: whoever reads them must check them."""
        if self.noted(name) != data:
            with suppress(OSError):
                self._path(name).unlink()
            self._keep(self._path(name), len(data), [data])

    def noted(self, name: str) -> bytes | None:
        """What was kept under `name`, if it still is."""
        with suppress(OSError):
            data = self._path(name).read_bytes()
            os.utime(self._path(name))
            return data
        return None

    def _keep(self, kept: Path, size: int, pieces: Pieces) -> None:
        if size > self._limit or kept.exists():
            return
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(size)
            with NamedTemporaryFile(dir=self._directory, suffix=PART, delete=False) as part:
                try:
                    part.writelines(pieces)
                    part.flush()
                    Path(part.name).replace(kept)
                except OSError:
                    Path(part.name).unlink(missing_ok=True)  # where space is short, what is useless must not take it
                    raise
        except OSError as error:
            log.warning("the cache in %s takes nothing: %s", self._directory, error)

    def _make_room(self, size: int) -> None:
        """Remove what was not used for longest until `size` bytes more are within the limit."""
        files = []
        for entry in os.scandir(self._directory):
            with suppress(FileNotFoundError):  # another process makes room, too
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
    """Write `pieces` to `target`; their digest."""
    seen = hashlib.sha256()
    with target.open("wb") as file:
        for piece in pieces:
            seen.update(piece)
            file.write(piece)
    return f"sha256:{seen.hexdigest()}"
