"""Where data sets are kept, and how it is known that they are what they should be."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs


class DataMissing(Exception):
    """A data set is not there, or not what it should be; the sentence says what to do."""


def folder(name: str) -> Path:
    """The directory of the data set `name`: in NESTOR_DATA, or in the user's cache."""
    chosen = os.environ.get("NESTOR_DATA")
    return (Path(chosen) if chosen else platformdirs.user_cache_path("nestor") / "data") / name


def complete(where: Path, digests: Mapping[str, str]) -> bool:
    """Whether all files are there.

    Args:
        digests: file name → SHA-256 in hexadecimal.

    Raises:
        DataMissing: a file is there, but is another one.
    """
    present = [where / name for name in digests if (where / name).exists()]
    for file in present:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != digests[file.name]:
            raise DataMissing(
                f"{file} is not the file that it should be: its SHA-256 is {found}, and {digests[file.name]} was "
                "expected. Delete it and run `make data` again."
            )
    return len(present) == len(digests)


def find(where: Path, name: str, remedy: str) -> Path:
    """The file `name` below `where`, at whatever depth an archive put it.

    Raises:
        DataMissing: there is none; `remedy` says how to come by it.
    """
    found = next(iter(sorted(where.rglob(name))), None) if where.is_dir() else None
    if found is None:
        raise DataMissing(f"There is no {name} in {where}. {remedy}")
    return found
