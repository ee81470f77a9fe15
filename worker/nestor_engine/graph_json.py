"""Arguments of operators and trees of tensors as JSON, both ways, with a bound on everything.

None, booleans, 64-bit integers, finite floats, strings and lists are themselves; anything else is an
object with one key that says what it is: {"ref": 3}, {"tuple": […]}, {"dict": [[key, value], …]},
{"float": "inf"}, {"dtype": "float32"}, {"layout": "strided"}, {"memory_format": "channels_last"},
{"device": "program"}.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from nestor_engine.errors import ProgramRejected

Json = Any
Value = Any  # None, bool, int, float, str, Ref, DEVICE, dtype, layout, memory format; lists, tuples and dicts of them

MAX_NAME = 256
MAX_DEPTH = 16


@dataclass(frozen=True)
class Ref:
    """A value that a graph computes or is given, by its number."""

    index: int


class Device:
    """The device that the program runs on: a program written on a laptop runs on a GPU."""

    def __repr__(self) -> str:
        return "DEVICE"


DEVICE = Device()

_KINDS: dict[str, dict[str, Any]] = {
    "float": {"inf": math.inf, "-inf": -math.inf, "nan": math.nan},
    "dtype": {
        name: getattr(torch, name)
        for name in (
            *("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"),
            *("complex64", "complex128"),
        )
    },
    "layout": {"strided": torch.strided},
    "memory_format": {
        name: getattr(torch, name)
        for name in ("contiguous_format", "preserve_format", "channels_last", "channels_last_3d")
    },
    "device": {"program": DEVICE},
}
_TAGS = {value: {kind: name} for kind, values in _KINDS.items() if kind != "float" for name, value in values.items()}


def valid_name(name: Any) -> bool:
    """Whether `name` may name a parameter, a column, a metric or a hyperparameter in a program."""
    return isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isprintable() and not set(name) & set("\"'`\\")


def encode(value: Any, number: Callable[[Any], int]) -> Json:
    """`value` as JSON; `number` gives the index of a node (or of whatever stands for a tensor).

    Raises:
        TypeError: something that a program cannot hold.
    """
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return {"float": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}
    if isinstance(value, Ref | fx.Node):
        return {"ref": number(value)}
    if isinstance(value, torch.device):
        return {"device": "program"}
    if isinstance(value, tuple):
        return {"tuple": [encode(item, number) for item in value]}
    if isinstance(value, list):
        return [encode(item, number) for item in value]
    if isinstance(value, dict):
        return {"dict": [[key, encode(item, number)] for key, item in value.items()]}
    if isinstance(value, torch.dtype | torch.layout | torch.memory_format) and value in _TAGS:
        return _TAGS[value]
    raise TypeError(f"a {type(value).__name__}")


class Budget:
    """How much a program may still ask for while it is read; one for all of its graphs."""

    def __init__(self, *, nodes: int, values: int) -> None:
        self.nodes, self.values = nodes, values

    def take(self, *, nodes: int = 0, values: int = 0) -> None:
        self.nodes -= nodes
        self.values -= values
        if self.nodes < 0 or self.values < 0:
            raise ProgramRejected(reason="it is larger than any model that we know of; simplify the model.")


def decode(json: Json, known: int, budget: Budget, depth: int = 0) -> Value:
    """What `encode` wrote, where only the values numbered below `known` exist yet.

    Raises:
        ProgramRejected: anything else.
    """
    budget.take(values=1)
    if depth > MAX_DEPTH:
        raise ProgramRejected(reason=f"its values are nested deeper than {MAX_DEPTH} levels.")
    if json is None or isinstance(json, bool | int | float | str):
        return json  # numbers were held to 64 bits, and strings are held to a list where an operator takes them
    if isinstance(json, list):
        return [decode(item, known, budget, depth + 1) for item in json]
    if not isinstance(json, dict) or len(json) != 1:
        raise ProgramRejected(reason=f"{brief(json)} is not a value.")
    ((tag, inner),) = json.items()
    if tag == "ref":
        if type(inner) is not int or not 0 <= inner < known:
            raise ProgramRejected(reason=f"it refers to the value {brief(inner)}, which does not exist at that point.")
        return Ref(inner)
    if tag == "tuple" and isinstance(inner, list):
        return tuple(decode(item, known, budget, depth + 1) for item in inner)
    if tag == "dict" and isinstance(inner, list):
        return _decode_dict(inner, known, budget, depth)
    if tag in _KINDS and isinstance(inner, str) and inner in _KINDS[tag]:
        return _KINDS[tag][inner]
    raise ProgramRejected(reason=f"{brief(json)} is not a value.")


def _decode_dict(items: list[Json], known: int, budget: Budget, depth: int) -> dict[str, Value]:
    decoded: dict[str, Value] = {}
    for item in items:
        if not isinstance(item, list) or len(item) != 2 or not valid_name(item[0]):
            raise ProgramRejected(reason=f"{brief(item)} is not a named value.")
        if item[0] in decoded:
            raise ProgramRejected(reason=f"the name {brief(item[0])} occurs twice.")
        decoded[item[0]] = decode(item[1], known, budget, depth + 1)
    return decoded


def leaves(tree: Value) -> list[Value]:
    """The leaves of a tree of lists, tuples and dicts, in order."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [leaf for item in tree for leaf in leaves(item)] if isinstance(tree, list | tuple) else [tree]


def brief(value: Any) -> str:
    """`value` for a message, however long it is."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
