"""The forms of a split, and of an item of a Dataset: which values they hold, under which column's name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from nestor.data import Ref
from nestor.errors import ColumnNameInvalid, ColumnNameTaken, SplitInvalid, shown
from nestor.program_format import MAX_NAME, valid_name
from nestor_engine.data.frames import columns_of_frame, is_frame, is_pandas

PAIR = ("x", "y")
FORMS = "Pass a tuple (x, y), or a dict of columns by name."
_LOAD = "Load the file first, for example with numpy.load or pandas.read_csv."
ITEMS = "Let its items be tuples (x, y), or dicts of columns by name; several inputs are ((a, b), y)."


def columns_in(split: str, given: Any) -> dict[str, Any]:
    """Path → values for each column of a tuple (x, y), a dict or a DataFrame; "x.0" and "x.mask" for nested ones.

    Raises:
        SplitInvalid: `given` is nothing of these.
        ColumnNameInvalid, ColumnNameTaken: a column's name cannot be used.
    """
    pairs = _pairs(given)
    if pairs is None:
        advice = f"{_LOAD} {FORMS}" if isinstance(given, str | Path) else FORMS
        raise SplitInvalid(split=split, given=called(given), advice=advice)
    return _flattened(split, pairs)


def columns_in_item(split: str, item: Any) -> dict[str, Any]:
    """As `columns_in`, for one item of a Dataset, which may also be a tensor, an array or a number: the column x.

    Raises:
        SplitInvalid: it is a tuple of another length than two.
        ColumnNameInvalid, ColumnNameTaken: a column's name cannot be used.
    """
    pairs = [("x", item)] if is_value(item) else _pairs(item)
    if pairs is None and isinstance(item, list | tuple):
        held = cast("list[Any] | tuple[Any, ...]", item)
        if len(held) != 1:
            raise SplitInvalid(split=split, given=f"a Dataset whose items are {called(held)}", advice=ITEMS)
        pairs = [("x", held[0])]
    return _flattened(split, [("x", item)] if pairs is None else pairs)


def with_parts(inputs: Any, columns: Mapping[str, object]) -> Any:
    """`inputs` of a problem, with its columns "x.0", "x.1", … in the place of an input "x" that is a tuple of columns.

    A single input that is a dict of columns, such as "x.ids" and "x.mask", becomes the dict from arguments of the model
    to columns: {"ids": "x.ids", "mask": "x.mask"}.
    """
    if isinstance(inputs, str) and not any(name == inputs or _below(name, f"{inputs}.0") for name in columns):
        prefix = f"{inputs}."
        return {name.removeprefix(prefix): name for name in columns if name.startswith(prefix)} or inputs
    names: tuple[Any, ...] = (inputs,) if isinstance(inputs, str) else ()
    if type(inputs) in (list, tuple):
        names = tuple(inputs)
    if not names or not all(isinstance(name, str) for name in names):
        return inputs
    return tuple(column for name in names for column in (list(_parts(name, columns)) or [name]))


def is_value(given: Any) -> bool:
    """Whether `given` is a tensor, an array or a number, and so no container of columns."""
    return isinstance(given, Tensor | bool | int | float) or (hasattr(given, "__array__") and not is_frame(given))


def called(given: object) -> str:
    """What a sentence calls a value of a wrong form, such as "a list of 3"."""
    if given is None:
        return "None"
    name = f"a {type(given).__name__}"
    return f"{name} of {len(cast('list[Any]', given))}" if isinstance(given, list | tuple) else name


def _pairs(given: Any) -> list[tuple[Any, Any]] | None:
    """(name, values) at the top level; None if it has no form that gives names."""
    if is_frame(given):
        return columns_of_frame(given)
    if isinstance(given, Mapping):
        return list(cast("Mapping[Any, Any]", given).items())
    fields = getattr(given, "_fields", None)
    if fields is not None and isinstance(given, tuple):
        return list(zip(fields, cast("tuple[Any, ...]", given), strict=True))
    if isinstance(given, list | tuple) and len(cast("list[Any]", given)) == len(PAIR):
        return list(zip(PAIR, cast("list[Any]", given), strict=True))
    return None


def _parts(name: str, columns: Mapping[str, object]) -> Iterator[str]:
    """The columns of a tuple of that name, in order, with those of tuples in it."""
    number = 0
    while any(_below(column, f"{name}.{number}") for column in columns):
        part = f"{name}.{number}"
        yield from [part] if part in columns else _parts(part, columns)
        number += 1


def _below(column: str, path: str) -> bool:
    return column == path or column.startswith(f"{path}.")


def _flattened(split: str, pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, values in _leaves(split, "", pairs):
        if path in found:
            raise ColumnNameTaken(split=split, column=path)
        found[path] = values
    return found


def _leaves(split: str, prefix: str, pairs: list[tuple[Any, Any]]) -> Iterator[tuple[str, Any]]:
    for name, values in pairs:
        path = f"{prefix}{name}"
        if not isinstance(name, str | int) or (isinstance(name, int) and not prefix) or not valid_name(path):
            raise ColumnNameInvalid(split=split, column=shown(name), most=MAX_NAME)
        if isinstance(values, Mapping):
            inner = list(cast("Mapping[Any, Any]", values).items())
            yield from _leaves(split, f"{path}.", inner)
        elif isinstance(values, tuple) and _has_parts(values := cast("tuple[Any, ...]", values)):
            yield from _leaves(split, f"{path}.", list(enumerate(values)))
        else:
            yield path, values


def _has_parts(values: tuple[Any, ...]) -> bool:
    """Whether a tuple is one of columns. Of plain numbers and lists it is a column, like a list."""
    return any(
        isinstance(value, Mapping | Ref)
        or is_pandas(value)
        or (is_value(value) and getattr(value, "ndim", 0) > 0)
        or (isinstance(value, tuple) and _has_parts(cast("tuple[Any, ...]", value)))
        for value in values
    )
