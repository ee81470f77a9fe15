"""Columns from pandas objects. Nothing here imports pandas: a user who passes such an object has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nestor.errors import RowsMisaligned, shown
from nestor_engine.data.arrays import Place, of_array, of_objects

_ADVICE = {
    "category": "Pass values.cat.codes.astype('int64'), or a column for each category with pandas.get_dummies.",
    "time": "Pass numbers instead, for example the days since the first: (values - values.min()).dt.days.",
    "str": "Encode it as numbers, for example with pandas.factorize(values)[0] or pandas.get_dummies.",
}


def is_pandas(values: Any) -> bool:
    """Whether `values` is a DataFrame, a Series, an Index or an array of pandas, and not one of its scalars."""
    return hasattr(values, "isna") and any(
        kind.__module__.partition(".")[0] == "pandas" for kind in type(values).__mro__
    )


def is_frame(values: Any) -> bool:
    """Whether `values` is a DataFrame."""
    return is_pandas(values) and hasattr(values, "columns") and hasattr(values, "iloc")


def columns_of_frame(frame: Any) -> list[tuple[Any, Any]]:
    """The (name, Series) of a DataFrame, in order; names may be anything, and occur twice."""
    return [(name, frame.iloc[:, number]) for number, name in enumerate(frame.columns)]


def tensor_of_frame(values: Any, place: Place, dtype: torch.dtype) -> Tensor:
    """A Series as a tensor of shape (n,), a DataFrame as one of shape (n, columns). The index is not read.

    Raises:
        ColumnNotTensor: not all of it are numbers, or some are missing.
    """
    if not is_frame(values):
        return _of_series(values, place, dtype)
    parts = [
        _of_series(series, replace(place, part=f"its column {shown(name)}"), dtype)
        for name, series in columns_of_frame(values)
    ]
    if not parts:
        raise place.refusal("it is a DataFrame without columns", "Pass at least one column.")
    common = parts[0].dtype
    for part in parts:
        common = torch.promote_types(common, part.dtype)
    return torch.stack([part.to(common) for part in parts], 1)


def expect_same_order(split: str, columns: Mapping[Any, Any]) -> None:
    """Check that pandas objects are not in different orders of the same examples.

    Raises:
        RowsMisaligned: they are, so that matching them by position would pair the wrong rows.
    """
    indices = [(name, values.index) for name, values in columns.items() if is_pandas(values) and _has_index(values)]
    for name, index in indices[1:]:
        first, reference = indices[0]
        if len(index) == len(reference) and not index.equals(reference) and _same_labels(index, reference):
            raise RowsMisaligned(split=split, first=first, second=name)


def _of_series(values: Any, place: Place, dtype: torch.dtype) -> Tensor:
    given: Any = getattr(values, "dtype", None)
    kind: str = getattr(given, "kind", "O")
    name = str(given)
    if kind == "c":
        return of_array(values, place, dtype)  # which refuses it
    if kind in "Mm" or name.startswith(("period", "interval")):
        raise place.refusal(f"it holds times or intervals ({name})", _ADVICE["time"])
    if name == "category":
        raise place.refusal("it is categorical", _ADVICE["category"])
    if kind not in "biuf":
        missing = values.isna()
        if missing.all():
            raise place.refusal("all of its values are missing", "Leave it out.")
        if name != "object":
            raise place.refusal(f"it holds values of dtype {name}", _ADVICE["str"])
        reason, advice = of_objects(values)
        raise place.refusal(reason, _ADVICE["str"] if "text" in reason else advice)
    missing = values.isna()
    if missing.any():
        count, first = int(missing.sum()), list(missing).index(True)
        reason = f"{count:,} of {len(values):,} values are missing, first in row {first}"
        raise place.refusal(reason, "Fill them, for example with values.fillna(0), or drop these rows.")
    import numpy

    subtype = getattr(given, "subtype", given)  # of sparse columns
    wanted = "bool" if kind == "b" else f"{kind}{subtype.itemsize}"
    return of_array(numpy.asarray(values, dtype=wanted), place, dtype)


def _has_index(values: Any) -> bool:
    return hasattr(values, "index") and hasattr(values.index, "equals")


def _same_labels(index: Any, reference: Any) -> bool:
    return index.is_unique and bool(index.isin(reference).all())
