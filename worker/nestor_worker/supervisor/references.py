"""Files that trials read by reference: whether this worker's operator allows them, and whether they are unchanged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestor.data import Ref, objects
from nestor.data.files import FileIdentity, digest_of, expect_file
from nestor.errors import DataRootInvalid, ReferenceChanged, ReferenceNotAllowed, ReferenceTooLarge
from nestor.schemas import ReferencedFile, ReferencedSplit
from nestor_worker.supervisor.blob_cache import BlobCache
from nestor_worker.workdir import PlacedFile

log = logging.getLogger(__name__)

MACHINE = "the worker"


@dataclass(frozen=True)
class Roots:
    """The directories and buckets below which trials may read by reference.

    Anyone who may submit trials chooses their references, and a worker reads with its own permissions. So nothing is
    allowed unless the operator names it.

    Attributes:
        directories: without symbolic links.
        prefixes: of objects, as bucket/ or bucket/prefix/.
    """

    directories: tuple[Path, ...] = ()
    prefixes: tuple[str, ...] = ()

    @staticmethod
    def of(entries: Iterable[str]) -> Roots:
        """The roots in NESTOR_DATA_ROOTS: absolute paths, and s3://bucket or s3://bucket/prefix.

        Raises:
            DataRootInvalid: an entry is neither.
        """
        directories: list[Path] = []
        prefixes: list[str] = []
        for entry in entries:
            scheme, separator, rest = entry.partition("://")
            if separator and scheme == "s3" and rest.strip("/"):
                prefixes.append(rest.strip("/") + "/")
                continue
            path = Path(rest if separator and scheme == "file" else entry)
            if not path.is_absolute() or (separator and scheme != "file"):
                raise DataRootInvalid(root=entry)
            directories.append(path.resolve())
        return Roots(tuple(directories), tuple(prefixes))

    def admit(self, ref: Ref) -> Path:
        """The file of `ref` without symbolic links; of an object, its bucket and key.

        Raises:
            ReferenceNotAllowed: it is below no root, whether or not it exists.
        """
        if ref.scheme == "s3":
            if ref.path.startswith(self.prefixes):
                return Path(ref.path)
        else:
            with suppress(OSError, RuntimeError, ValueError):  # a loop of links is below no root, too
                path = Path(ref.path).resolve()
                if any(path.is_relative_to(directory) for directory in self.directories):
                    return path
        raise ReferenceNotAllowed(uri=ref.uri, roots=self._named())

    def _named(self) -> str:
        names = [*map(str, self.directories), *(f"s3://{prefix}" for prefix in self.prefixes)]
        return ", ".join(names) or "no data by reference"


def provide(
    splits: Mapping[str, Any], roots: Roots, cache: BlobCache, links: Path, check: Callable[[], None]
) -> dict[str, list[PlacedFile]]:
    """The referenced files of a data set on this machine, after a look at their digests.

    Args:
        splits: of the data set, as the database stores them.
        links: gets links to downloaded objects.
        check: called every few megabytes; it may raise an error to end the reading.

    Raises:
        ReferenceNotAllowed: the operator does not allow a file.
        ReferenceNotFound: it does not exist, or cannot be read.
        ReferenceChanged: it does not have the recorded digest.
        ReferenceTooLarge: an object is larger than the cache.
        Unavailable: an object store does not answer.
    """
    placed: dict[str, list[PlacedFile]] = {}
    for name, split in splits.items():
        if isinstance(split, dict):
            files = ReferencedSplit.model_validate(split).files
            placed[name] = [_provide(file, roots, cache, links, check) for file in files]
    return placed


def _provide(
    file: ReferencedFile, roots: Roots, cache: BlobCache, links: Path, check: Callable[[], None]
) -> PlacedFile:
    ref = Ref(file.uri)
    path = roots.admit(ref)
    if ref.scheme == "s3":
        path = _downloaded(file, ref, cache, links, check)
    else:
        expect_file(ref, path, machine=MACHINE)
    identity = FileIdentity.of(path)
    if _digest(path, identity, cache, check) != file.digest or FileIdentity.of(path) != identity:
        raise ReferenceChanged(uri=ref.uri, reason="its SHA-256 is another one")
    columns = {name: column.model_dump(mode="json") for name, column in file.columns.items()}
    return PlacedFile(file.uri, str(path), identity.size, identity.mtime_ns, identity.inode, columns)


def _digest(path: Path, identity: FileIdentity, cache: BlobCache, check: Callable[[], None]) -> str:
    """The file's SHA-256, which is computed once for all attempts on this machine while the file is unchanged."""
    name = f"digest:{identity.key}"
    if (known := cache.get_named(name)) is not None:
        return known.decode(errors="replace")
    digest = digest_of(path, check=check)
    cache.put_named(name, digest.encode())
    return digest


def _downloaded(file: ReferencedFile, ref: Ref, cache: BlobCache, links: Path, check: Callable[[], None]) -> Path:
    if not cache.has(file.digest):
        _, size = objects.look_up(ref, machine=MACHINE)
        if size > cache.limit:
            raise ReferenceTooLarge(uri=ref.uri, size=size, limit=cache.limit)
        log.info("downloading %s, %d bytes", ref.uri, size)

        def pieces() -> Iterable[bytes]:
            for piece in objects.pieces(ref, machine=MACHINE):
                check()
                yield piece

        if not cache.fetch(file.digest, size, pieces()):
            raise ReferenceChanged(uri=ref.uri, reason="its SHA-256 is another one")
    return cache.linked(file.digest, links / f"object-{file.digest[7:23]}")
