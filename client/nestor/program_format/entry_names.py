"""How the entries of a tensor of hyperparameters are called: "example 17", or "0.weight, row 3, column 5"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from nestor.errors import shown
from nestor.program_format.untrusted_json import Json, refused

Axis = str | tuple[str, ...]  # what the positions of a dimension count, such as "example"; or a name for each of them

MAX_AXES = 16


@dataclass(frozen=True)
class EntryNames:
    """What a kind of hyperparameters calls the entries of one of its tensors.

    Attributes:
        of: the parameter or layer that all entries belong to, such as "0.weight"; None: they belong to several.
        axes: one for each dimension; None: the kind gives its entries no names.
    """

    of: str | None = None
    axes: tuple[Axis, ...] | None = None

    def name(self, hyperparameter: str, shape: Sequence[int], index: int) -> str:
        """The name of the entry with this flat index in a tensor of this shape.

        An entry without names is called by its position, such as "temperature[3, 5]"; one of a scalar by the
        hyperparameter.
        """
        position = multi_index(shape, index)
        axes = self.axes
        if axes is None or len(axes) != len(position) or not _fit(axes, shape):
            return f"{hyperparameter}[{', '.join(map(str, position))}]" if position else self.of or hyperparameter
        parts = [] if self.of is None else [self.of]
        for axis, at in zip(axes, position, strict=True):
            parts.append(f"{axis} {at}" if isinstance(axis, str) else axis[at])
        return ", ".join(parts) or hyperparameter


UNNAMED = EntryNames()


def _fit(axes: tuple[Axis, ...], shape: Sequence[int]) -> bool:
    return all(isinstance(axis, str) or len(axis) == size for axis, size in zip(axes, shape, strict=True))


def labels(names: Sequence[str], counted: str) -> Axis:
    """`names` as an axis, or `counted` if a document cannot hold one of them."""
    return tuple(names) if all(map(_is_name, names)) else counted


def multi_index(shape: Sequence[int], index: int) -> tuple[int, ...]:
    """The position of the entry with this flat index, in row-major order. The index must be below the product."""
    position: list[int] = []
    for size in reversed(shape):
        index, at = divmod(index, size)
        position.append(at)
    return tuple(reversed(position))


def flat_index(shape: Sequence[int], position: Sequence[int]) -> int:
    """The inverse of `multi_index`."""
    return sum(at * math.prod(shape[dim + 1 :]) for dim, at in enumerate(position))


def parse_entry_names(of: Json, axes: Json, where: str) -> EntryNames:
    """The names that a document has, from an untrusted program.

    Raises:
        ProgramInvalid: they have another form.
    """
    if of is not None and not _is_name(of):
        raise refused(f"{where} is of {shown(of)}, which is not a name")
    if axes is None:
        return EntryNames(cast("str | None", of))
    if not isinstance(axes, list) or len(axes) > MAX_AXES or not all(map(_is_axis, axes)):
        raise refused(f"{where} has the axes {shown(axes)}, which are not names and lists of names")
    found = tuple(tuple(cast("list[str]", axis)) if isinstance(axis, list) else str(axis) for axis in axes)
    return EntryNames(cast("str | None", of), found)


def entry_names_json(names: EntryNames) -> dict[str, Json]:
    """The fields of a document that `parse_entry_names` reads."""
    axes = names.axes
    return {
        "of": names.of,
        "axes": None if axes is None else [axis if isinstance(axis, str) else list(axis) for axis in axes],
    }


def _is_axis(json: Json) -> bool:
    return all(map(_is_name, json)) if isinstance(json, list) else _is_name(json)


def _is_name(json: Json) -> bool:
    return isinstance(json, str) and 0 < len(json) <= 256 and json.isprintable()
