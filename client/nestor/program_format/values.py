"""Arguments of operators, and trees of a graph's values, as JSON and back.

None, booleans, 64-bit integers, finite floats, strings and lists are themselves. Anything else is an object with one
key that says what it is: {"ref": 3}, {"tuple": […]}, {"dict": [[key, value], …]}, {"float": "inf"},
{"dtype": "float32"}, {"layout": "strided"}, {"memory_format": "channels_last"}, {"device": "program"}.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from nestor.errors import shown
from nestor.program_format.limits import MAX_NODES, MAX_VALUE_LEVELS, MAX_VALUES, valid_name
from nestor.program_format.untrusted_json import Json, list_of, refused


@dataclass(frozen=True, slots=True)
class Ref:
    """A value that a graph computes or is given, by its number."""

    index: int


@dataclass(frozen=True)
class TorchConstant:
    """A dtype, a layout, a memory format or the device, by torch's name for it; see `CONSTANTS`."""

    kind: str
    name: str


# A program that was written on a laptop runs on a GPU, so the only device is the one that it runs on.
DEVICE = TorchConstant("device", "program")

GraphLeaf: TypeAlias = bool | int | float | str | Ref | TorchConstant | None
GraphValue: TypeAlias = "GraphLeaf | list[GraphValue] | tuple[GraphValue, ...] | dict[str, GraphValue]"

CONSTANTS: dict[str, frozenset[str]] = {
    "dtype": frozenset(
        (
            *("bool", "uint8", "int8", "int16", "int32", "int64"),
            *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
        )
    ),
    "layout": frozenset({"strided"}),
    "memory_format": frozenset({"contiguous_format", "preserve_format", "channels_last", "channels_last_3d"}),
    "device": frozenset({"program"}),
}
_FLOATS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


class Budget:
    """How much a document may still ask for while it is read; one for all of its graphs."""

    def __init__(self, *, nodes: int = MAX_NODES, values: int = MAX_VALUES) -> None:
        self.nodes, self.values = nodes, values

    def take(self, *, nodes: int = 0, values: int = 0) -> None:
        """Use up so many nodes and values.

        Raises:
            ProgramInvalid: fewer are left.
        """
        self.nodes -= nodes
        self.values -= values
        if self.nodes < 0 or self.values < 0:
            raise refused("it is larger than any known model; simplify the model")


def encode(value: GraphValue) -> Json:
    """The JSON that `decode` reads."""
    match value:
        case Ref():
            return {"ref": value.index}
        case TorchConstant():
            return {value.kind: value.name}
        case float() if not math.isfinite(value):
            return {"float": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}
        case tuple():
            return {"tuple": [encode(item) for item in value]}
        case list():
            return [encode(item) for item in value]
        case dict():
            return {"dict": [[key, encode(item)] for key, item in value.items()]}
        case _:
            return value


def decode(json: Json, known: int, budget: Budget, where: str, level: int = 0) -> GraphValue:
    """What `encode` wrote.

    Args:
        known: only the values numbered below it exist yet, so that no graph refers to itself.
        where: names the place in messages.

    Raises:
        ProgramInvalid: anything else.
    """
    budget.take(values=1)
    if level > MAX_VALUE_LEVELS:
        raise refused(f"{where}: its values are nested deeper than {MAX_VALUE_LEVELS} levels")
    if isinstance(json, list):
        return [decode(item, known, budget, where, level + 1) for item in json]
    if not isinstance(json, dict):
        return json  # `parse_json` held numbers to 64 bits; an operator takes strings of a list alone
    if len(json) != 1:
        raise refused(f"{where}: {shown(json)} is not a value")
    ((tag, inner),) = json.items()
    if tag == "ref":
        if type(inner) is not int or not 0 <= inner < known:
            raise refused(f"{where}: it refers to the value {shown(inner)}, which does not exist at that point")
        return Ref(inner)
    if tag == "tuple":
        return tuple(decode(item, known, budget, where, level + 1) for item in list_of(inner, f"{where}: a tuple"))
    if tag == "dict":
        return _decode_dict(list_of(inner, f"{where}: a dict"), known, budget, where, level)
    if isinstance(inner, str):
        if tag == "float" and inner in _FLOATS:
            return _FLOATS[inner]
        if inner in CONSTANTS.get(tag, ()):
            return TorchConstant(tag, inner)
    raise refused(f"{where}: {shown(json)} is not a value")


def _decode_dict(items: list[Json], known: int, budget: Budget, where: str, level: int) -> dict[str, GraphValue]:
    decoded: dict[str, GraphValue] = {}
    for item in items:
        match item:
            case [str(name), value] if valid_name(name):
                if name in decoded:
                    raise refused(f"{where}: the name {shown(name)} occurs twice")
                decoded[name] = decode(value, known, budget, where, level + 1)
            case _:
                raise refused(f"{where}: {shown(item)} is not a named value")
    return decoded


def leaves(tree: GraphValue) -> list[GraphValue]:
    """The leaves of a tree of lists, tuples and dicts, in order."""
    found: list[GraphValue] = []
    _collect(tree, found)
    return found


def _collect(tree: GraphValue, found: list[GraphValue]) -> None:
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        for item in tree:
            _collect(item, found)
    else:
        found.append(tree)
