"""From what users pass as a split to its columns: a dict of equally long tensors."""

from __future__ import annotations

from typing import Any

import torch

from nestor.data import Ref
from nestor.errors import ColumnReserved, ColumnsMissing, DataLengthsDiffer, SplitEmpty
from nestor.program_format import INDEX
from nestor_engine.data.arrays import Place
from nestor_engine.data.datasets import columns_read, is_dataset
from nestor_engine.data.forms import columns_in
from nestor_engine.data.frames import expect_same_order
from nestor_engine.data.references import columns_of as columns_by_reference
from nestor_engine.data.values import tensor_of
from nestor_engine.objective import Tensors

# A tuple (x, y), a dict of columns, a DataFrame, a Dataset, or a reference. Columns are tensors, arrays, lists, pandas
# objects, and references.
# A column may itself be a tuple or a dict of columns, whose names are then paths such as "x.0" and "x.mask".
Columns = Any


def columns_of(split: str, given: Columns, dtype: torch.dtype | None = None) -> Tensors:
    """The columns of a split by name.

    Args:
        dtype: that of floating-point columns from other sources than tensors; torch's default dtype if None.

    Raises:
        DatasetInvalid: naming the split, the column and what to do.
    """
    dtype = dtype or torch.get_default_dtype()
    with torch.inference_mode(mode=False):  # or no tensor made here could be differentiated
        if isinstance(given, Ref):
            given = columns_by_reference(split, given)
        found = columns_read(split, given, dtype) if is_dataset(given) else columns_in(split, given)
        expect_same_order(split, found)
        return verified(split, {name: tensor_of(values, Place(split, name), dtype) for name, values in found.items()})


def verified(split: str, columns: Tensors) -> Tensors:
    """`columns`, all on the device of the first one.

    Raises:
        DatasetInvalid: the split has no columns, or they are empty or not equally long, or one has the reserved name.
    """
    if not columns:
        raise ColumnsMissing(split=split)
    lengths = {name: len(values) if values.ndim else "a scalar" for name, values in columns.items()}
    if "a scalar" in lengths.values() or len(set(lengths.values())) != 1:
        raise DataLengthsDiffer(split=split, lengths=lengths)
    if 0 in lengths.values():
        raise SplitEmpty(split=split)
    if INDEX in columns:
        raise ColumnReserved(split=split, column=INDEX)
    device = next(iter(columns.values())).device
    return {name: values.to(device) for name, values in columns.items()}
