"""What a referenced file holds, read from its header alone: no example is read, and torch is not needed."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (pyarrow has no annotations)

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from nestor.data.reference import Ref
from nestor.errors import ReferenceColumnNotFound, ReferenceUnreadable
from nestor.extras import require
from nestor.program_format.safetensors_header import Header, Malformed

# How NumPy reads the numbers of a safetensors file. It has no BF16, which is the upper half of a float32.
NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<i2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_NAMES = {descr.lstrip("<|"): name for name, descr in NUMPY.items() if name != "BF16"}
_ADVICE = {
    "safetensors": "Save it with safetensors.torch.save_file.",
    "npy": "Save an array of numbers with numpy.save(path, numpy.ascontiguousarray(array)).",
    "parquet": "Write columns of numbers or booleans without nulls, or fixed-size lists of them.",
}


@dataclass(frozen=True)
class FileColumn:
    """A column as its file stores it.

    Attributes:
        dtype: as safetensors names it.
        shape: the number of examples, then the shape of one.
        numpy: how NumPy reads the bytes, with their order; of no use for Parquet.
        offset: of the first byte in the file; 0 for Parquet.
    """

    dtype: str
    shape: tuple[int, ...]
    numpy: str
    offset: int = 0


def read_columns(ref: Ref, path: Path) -> dict[str, FileColumn]:
    """The columns that `ref` names in the file at `path`. The one column of an .npy file has the name "".

    Raises:
        ReferenceUnreadable: the file is damaged, or holds what cannot be mapped.
        ReferenceColumnNotFound: it has no such column.
        MissingExtra: Parquet needs pyarrow.
    """
    readers = {"safetensors": _read_safetensors, "npy": _read_npy, "parquet": _read_parquet}
    found = readers[ref.format](ref, path)
    if ref.format == "npy" or ref.columns is None:
        if ref.columns is not None:
            raise ReferenceColumnNotFound(uri=ref.uri, column=ref.columns[0], columns="no column names")
        return {name: _checked(ref, name, column) for name, column in found.items()}
    for name in ref.columns:
        if name not in found:
            raise ReferenceColumnNotFound(uri=ref.uri, column=name, columns=sorted(found))
    return {name: _checked(ref, name, found[name]) for name in ref.columns}


def unreadable(ref: Ref, reason: str) -> ReferenceUnreadable:
    """The error for a file that is not what its name says; `reason` is a clause."""
    return ReferenceUnreadable(uri=ref.uri, format=ref.format, reason=reason.rstrip("."), advice=_ADVICE[ref.format])


def _checked(ref: Ref, name: str, column: FileColumn | str) -> FileColumn:
    if isinstance(column, str):
        raise unreadable(ref, f"its column {name!r} has the type {column}" if name else f"it holds {column}")
    return column


def _read_safetensors(ref: Ref, path: Path) -> dict[str, FileColumn | str]:
    with path.open("rb") as file:
        try:
            first = file.read(8)
            header = Header.parse(first + file.read(Header.length(first) - 8), path.stat().st_size)
        except Malformed as error:
            raise unreadable(ref, str(error)) from None
    return {name: FileColumn(t.dtype, t.shape, NUMPY[t.dtype], t.begin) for name, t in header.tensors.items()}


def _read_npy(ref: Ref, path: Path) -> dict[str, FileColumn | str]:
    with path.open("rb") as file:
        try:
            version = npy.read_magic(file)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran_order, dtype = read(file)
        except (ValueError, EOFError, SyntaxError) as error:
            raise unreadable(ref, str(error).split("\n")[0] or "its header cannot be read") from None
        offset, size = file.tell(), path.stat().st_size
    if dtype.hasobject:
        return {"": "Python objects, which only a pickle can store"}
    if fortran_order and len(shape) > 1:
        return {"": "an array in Fortran order, whose examples are not contiguous"}
    name = _NAMES.get(dtype.str.lstrip("<>|="))
    if name is None:
        return {"": f"numbers of the type {dtype}, which torch does not have"}
    nbytes = math.prod(shape) * dtype.itemsize
    if offset + nbytes != size:
        raise unreadable(ref, f"its header announces {offset + nbytes:,} bytes, and it has {size:,}")
    return {"": FileColumn(name, tuple(shape), dtype.str, offset)}


def _read_parquet(ref: Ref, path: Path) -> dict[str, FileColumn | str]:
    pyarrow = require("pyarrow", what="Reading Parquet files by reference", extra="parquet")
    parquet = require("pyarrow.parquet", what="Reading Parquet files by reference", extra="parquet")
    try:
        with parquet.ParquetFile(path, memory_map=True) as file:
            schema, n = file.schema_arrow, int(file.metadata.num_rows)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise unreadable(ref, str(error).split("\n")[0]) from None
    found: dict[str, FileColumn | str] = {}
    for field in schema:
        inner, shape = field.type, (n,)
        while pyarrow.types.is_fixed_size_list(inner):
            shape, inner = (*shape, int(inner.list_size)), inner.value_type
        found[str(field.name)] = _parquet_column(pyarrow, inner, shape) or str(field.type)
    return found


def _parquet_column(pyarrow: Any, kind: Any, shape: tuple[int, ...]) -> FileColumn | None:
    types = pyarrow.types
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        return None
    descr = np.dtype(kind.to_pandas_dtype()).str
    return FileColumn(_NAMES[descr.lstrip("<>|=")], shape, descr)
