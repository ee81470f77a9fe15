"""Opens references: their files become mapped columns."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (pyarrow has no annotations)

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nestor.data import Ref
from nestor.data.files import FileIdentity, local_file
from nestor.data.formats import FileColumn, read_columns, unreadable
from nestor.errors import ReferenceChanged, ReferenceNotOneColumn, ReferenceWithoutNames
from nestor.extras import require
from nestor_engine.data.mapped import FileRows, MappedColumn
from nestor_engine.tensors.serialization import DTYPES

PARQUET_BYTES = 2**25  # decoded at a time


def columns_of(split: str, ref: Ref) -> dict[str, MappedColumn]:
    """The columns of a reference that stands for a whole split.

    Raises:
        DatasetInvalid: the file cannot be read, is damaged, or has no column names.
    """
    if ref.format == "npy":
        raise ReferenceWithoutNames(split=split, uri=ref.uri)
    return open_columns(ref, local_file(ref))


def column_of(split: str, column: str, ref: Ref) -> MappedColumn:
    """The column of a reference that stands for one column of a split.

    Raises:
        DatasetInvalid: the file cannot be read, is damaged, or has several columns.
    """
    found = open_columns(ref, local_file(ref))
    if len(found) != 1:
        raise ReferenceNotOneColumn(split=split, column=column, columns=sorted(found))
    return next(iter(found.values()))


def open_columns(ref: Ref, path: Path) -> dict[str, MappedColumn]:
    """The columns of the file at `path`, whose bytes are those of `ref`.

    Floating-point columns of safetensors keep their dtype. Those of .npy and Parquet files become torch's default
    dtype, as arrays do.

    Raises:
        DatasetInvalid: the file is damaged, or holds what cannot be mapped.
        MissingExtra: Parquet needs pyarrow.
    """
    identity, found = FileIdentity.of(path), read_columns(ref, path)
    arrays = _decoded(ref, path, identity, found) if ref.format == "parquet" else _mapped(path, found)
    if FileIdentity.of(path) != identity:
        raise ReferenceChanged(uri=ref.uri, reason="it was written to while it was opened")
    opened: dict[str, MappedColumn] = {}
    for name, column in found.items():
        rows = FileRows(arrays[name], column.dtype == "BF16", f"{identity.key} {name}")
        dtype = DTYPES[column.dtype]
        if ref.format != "safetensors" and dtype.is_floating_point:
            dtype = torch.get_default_dtype()
        opened[name] = MappedColumn(rows, dtype, ref=ref, source=name)
    return opened


def recorded_columns(
    uri: str, identity: FileIdentity, columns: Mapping[str, Mapping[str, Any]]
) -> dict[str, MappedColumn]:
    """The columns of a file as they were recorded with a data set.

    Args:
        identity: the file, as it was when its digest was computed.
        columns: name in the split → "source", "dtype" and "shape", as in `nestor.schemas.ReferencedColumn`.

    Raises:
        ReferenceChanged: the file is another one now, or its columns are not as recorded.
        DatasetInvalid: as `open_columns`.
    """
    sources = tuple(dict.fromkeys(str(column["source"]) for column in columns.values()))
    ref, path = Ref(uri), Path(identity.path)
    if ref.format != "npy":
        ref = Ref(uri, sources)
    try:
        found = open_columns(ref, path) if FileIdentity.of(path) == identity else None
    except OSError:
        found = None
    if found is None or FileIdentity.of(path) != identity:
        raise ReferenceChanged(uri=uri, reason="it was replaced or written to")
    opened: dict[str, MappedColumn] = {}
    for name, column in columns.items():
        stored, dtype = found.get(str(column["source"])), DTYPES[str(column["dtype"])]
        same = stored is not None and tuple(stored.shape) == tuple(column["shape"])
        if stored is None or not same or stored.dtype.is_floating_point != dtype.is_floating_point:
            raise ReferenceChanged(uri=uri, reason=f"its column {column['source']!r} is not as recorded")
        if not dtype.is_floating_point and stored.dtype != dtype:
            raise ReferenceChanged(uri=uri, reason=f"its column {column['source']!r} is not as recorded")
        opened[name] = MappedColumn(stored.rows, dtype, ref=ref, source=stored.source)
    return opened


def _mapped(path: Path, found: dict[str, FileColumn]) -> dict[str, NDArray[Any]]:
    # One mapping of the whole file: shared and read-only, so that it takes no memory that a limit counts.
    data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    arrays: dict[str, NDArray[Any]] = {}
    for name, column in found.items():
        end = column.offset + math.prod(column.shape) * np.dtype(column.numpy).itemsize
        arrays[name] = _view(data[column.offset : end], column)
    return arrays


def _view(data: NDArray[np.uint8], column: FileColumn) -> NDArray[Any]:
    return np.ndarray(column.shape, column.numpy, np.asarray(data))


# --- Parquet --------------------------------------------------------------------------------------


_files: dict[str, dict[str, NDArray[Any]]] = {}


def _decoded(ref: Ref, path: Path, identity: FileIdentity, found: dict[str, FileColumn]) -> dict[str, NDArray[Any]]:
    """The columns in temporary files without a name, which the system removes with the last mapping."""
    known = _files.setdefault(identity.key, {})
    for name, column in found.items():
        if name not in known:
            known[name] = _decode(ref, path, name, column)
    return known


def _decode(ref: Ref, path: Path, name: str, column: FileColumn) -> NDArray[Any]:
    pyarrow = require("pyarrow", what="Reading Parquet files by reference", extra="parquet")
    parquet = require("pyarrow.parquet", what="Reading Parquet files by reference", extra="parquet")
    nbytes = math.prod(column.shape) * np.dtype(column.numpy).itemsize
    rows = max(1, PARQUET_BYTES * column.shape[0] // max(1, nbytes))
    with tempfile.TemporaryFile() as file:
        try:
            with parquet.ParquetFile(path, memory_map=True) as source:
                for batch in source.iter_batches(min(rows, 2**20), columns=[name], use_threads=False):
                    values, nulls = batch.column(0), batch.column(0).null_count
                    while pyarrow.types.is_fixed_size_list(values.type):
                        values = values.flatten()
                        nulls += values.null_count
                    if nulls:
                        raise unreadable(ref, f"its column {name!r} has nulls")
                    file.write(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).tobytes())
        except (pyarrow.ArrowException, OSError) as error:
            raise unreadable(ref, f"its column {name!r} cannot be decoded: {str(error).splitlines()[0]}") from None
        file.flush()
        if file.tell() != nbytes:
            raise unreadable(ref, f"its column {name!r} has fewer rows than its header announces")
        data = np.memmap(file, np.uint8, "r") if nbytes else np.empty(0, np.uint8)
    return _view(data, column)
