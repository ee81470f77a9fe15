"""The record of the columns of a problem that workers read by reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nestor.data.files import digest_of, local_file
from nestor.schemas import ReferencedColumn, ReferencedFile, ReferencedSplit, build

if TYPE_CHECKING:
    from nestor_engine.data.mapped import MappedColumn


def referenced(
    mapped: Mapping[str, Mapping[str, MappedColumn]], digests: Mapping[str, str]
) -> dict[str, ReferencedSplit]:
    """The splits with columns by reference, as they are registered.

    The digest of each file is computed, which reads all of it; of an unchanged file once per process.

    Args:
        mapped: split → its columns by reference; may be empty.
        digests: split → the blob of its other columns, if it has some.
    """
    return {
        split: ReferencedSplit(files=_files(columns), uploaded=digests.get(split))
        for split, columns in mapped.items()
        if columns
    }


def _files(columns: Mapping[str, MappedColumn]) -> tuple[ReferencedFile, ...]:
    from nestor_engine.tensors.serialization import NAMES

    of_file: dict[str, dict[str, ReferencedColumn]] = {}
    digests: dict[str, str] = {}
    for name, column in columns.items():
        ref = column.ref
        assert ref is not None  # of a problem's own columns
        if ref.uri not in digests:
            digests[ref.uri] = digest_of(local_file(ref))
        fields = {"source": column.source, "dtype": NAMES[column.dtype], "shape": tuple(column.shape)}
        of_file.setdefault(ref.uri, {})[name] = build(ReferencedColumn, fields)
    return tuple(ReferencedFile(uri=uri, digest=digests[uri], columns=of_file[uri]) for uri in of_file)
