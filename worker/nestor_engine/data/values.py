"""One column that a user passed as a tensor: from tensors, arrays, lists, pandas objects and references."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (values are of any library, and torch does not type as_tensor)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from nestor.data import Ref
from nestor.errors import ExamplesDiffer, shown
from nestor_engine.data.arrays import COMPLEX, LARGEST, Place, described, is_image, of_array, of_tensor, unusable
from nestor_engine.data.frames import is_pandas, tensor_of_frame
from nestor_engine.data.mapped import MappedColumn
from nestor_engine.data.references import column_of


def tensor_of(values: Any, place: Place, dtype: torch.dtype) -> Tensor:
    """`values` as a tensor outside of autograd. It shares memory with a tensor or an array where it can.

    Args:
        dtype: that of floating-point numbers from other sources than torch. Tensors keep their dtype.

    Raises:
        ColumnNotTensor: they are no numbers, or in a form that torch cannot train on.
        ExamplesDiffer: a list has entries of different shapes.
    """
    if isinstance(values, Ref):
        values = column_of(place.split, place.column, values)
    if isinstance(values, MappedColumn):
        return _of_mapped(values, dtype)
    if isinstance(values, Tensor):
        return of_tensor(values, place)
    if is_pandas(values):
        return tensor_of_frame(values, place, dtype)
    if isinstance(values, bool | int | float | complex):
        return _of_number(values, place, dtype)
    if isinstance(values, list | tuple):
        return _of_list(cast("Sequence[Any]", values), place, dtype)
    if hasattr(values, "__array__") and not is_image(values):
        return of_array(values, place, dtype)
    raise place.refusal(*unusable(values))


def _of_mapped(values: MappedColumn, dtype: torch.dtype) -> Tensor:
    """As from memory: arrays take the model's dtype, and tensors of safetensors keep theirs."""
    array = values.ref is not None and values.ref.format != "safetensors" and values.is_floating_point()
    return values.to(dtype) if array else values.detach()


def _of_number(value: complex, place: Place, dtype: torch.dtype) -> Tensor:
    if isinstance(value, complex):
        raise place.refusal("it is complex", COMPLEX)
    if isinstance(value, int) and not -LARGEST - 1 <= value <= LARGEST:
        raise place.refusal(f"{shown(value)} is outside of int64", "Pass smaller numbers, such as positions.")
    return torch.as_tensor(value, dtype=dtype if isinstance(value, float) else None)


def _of_list(values: Sequence[Any], place: Place, dtype: torch.dtype) -> Tensor:
    if all(isinstance(value, bool | int | float | list | tuple) for value in values):
        try:
            found = torch.as_tensor(values)
        except (OverflowError, RuntimeError, TypeError, ValueError):
            pass  # the rows tell which of them is the cause
        else:
            if found.is_floating_point():  # read again, because the first tensor may have fewer digits
                found = torch.as_tensor(values, dtype=dtype)
            return of_tensor(found, place)
    rows = [
        tensor_of(value, place if place.entry else replace(place, entry=f"entry {number}"), dtype)
        for number, value in enumerate(values)
    ]
    return stacked(rows, place)


def stacked(rows: Sequence[Tensor], place: Place, what: str = "Entry") -> Tensor:
    """One tensor of rows that must have one shape.

    Raises:
        ExamplesDiffer: they have not.
    """
    for number, row in enumerate(rows):
        if row.shape != rows[0].shape:
            raise ExamplesDiffer(
                entry=f"{what} {number}",
                column=place.column,
                split=place.split,
                shape=described(row),
                first=described(rows[0]),
            )
    return torch.stack([row.to(rows[0].device) for row in rows])
