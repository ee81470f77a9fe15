"""Where data sets are stored, and how their files are verified."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs


class DataMissing(Exception):
    """A data set is missing or damaged; the message says what to do."""


def folder(name: str) -> Path:
    """The directory of the data set `name`: in NESTOR_DATA, or in the user's cache."""
    chosen = os.environ.get("NESTOR_DATA")
    return (Path(chosen) if chosen else platformdirs.user_cache_path("nestor") / "data") / name


def complete(where: Path, digests: Mapping[str, str]) -> bool:
    """Whether all files exist.

    Args:
        digests: file name → SHA-256 in hexadecimal.

    Raises:
        DataMissing: A file exists, but has another digest.
    """
    present = [where / name for name in digests if (where / name).exists()]
    for file in present:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != digests[file.name]:
            raise DataMissing(
                f"{file} is damaged or another file: its SHA-256 is {found} instead of {digests[file.name]}. "
                "Delete it and run `make data` again."
            )
    return len(present) == len(digests)


def find(where: Path, name: str, remedy: str) -> Path:
    """The file `name` below `where`, at any depth.

    Raises:
        DataMissing: The file was not found; `remedy` says how to get it.
    """
    found = next(iter(sorted(where.rglob(name))), None) if where.is_dir() else None
    if found is None:
        raise DataMissing(f"{name} was not found in {where}. {remedy}")
    return found
