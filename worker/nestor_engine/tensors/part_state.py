"""States of parts of the method between outer steps: frozen dataclasses, and their form as named tensors.

A curvature, a solver, a preconditioner or a response defines its own subclass of `PartState`. A checkpoint holds the
states of all parts as one flat dict of tensors. The key of a field in that dict is declared with `kept_as`, so that a
field or a class can be renamed and earlier checkpoints still open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, dataclass, fields, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from nestor_engine.objective import Tensors


@dataclass(frozen=True)
class PartState:
    """Base of all states. Every field has a default, which is its value before the first outer step.

    A field is a tensor or None, an int, a float, a dict of tensors by name, or another `PartState`. Every field but the
    last kind declares its key: `field(default=0, metadata=kept_as("norm.age"))`.
    """


@dataclass(frozen=True)
class NoState(PartState):
    """The state of a part without a state."""


S = TypeVar("S", bound=PartState)


def kept_as(key: str) -> dict[str, str]:
    """Field metadata: the key in a checkpoint. Of a dict of tensors it is the prefix, joined to the names by a dot."""
    return {"key": key}


def to_tensors(state: PartState) -> Tensors:
    """The fields by key, nested states included. None, and numbers equal to the default, are left out."""
    named: Tensors = {}
    for key, f, value in _entries(state):
        if isinstance(value, dict):
            named |= {f"{key}.{name}": tensor for name, tensor in cast(Tensors, value).items()}
        elif isinstance(value, Tensor):
            named[key] = value
        elif isinstance(value, int | float) and value != f.default:
            named[key] = torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)
    return named


def from_tensors(initial: S, named: Tensors) -> S:
    """The state that `to_tensors` wrote, with the structure of `initial`; missing fields keep their initial values.

    Raises:
        ValueError, RuntimeError: the tensor of a number has more than one element.
    """
    return _filled(initial, named, {key for key, _, value in _entries(initial) if not isinstance(value, dict)})


def _filled(initial: S, named: Tensors, taken: set[str]) -> S:
    found: dict[str, Any] = {}
    for f in fields(initial):
        value, key = getattr(initial, f.name), f.metadata.get("key", "")
        if isinstance(value, PartState):
            found[f.name] = _filled(value, named, taken)
        elif isinstance(value, dict):
            names = [name for name in named if name.startswith(f"{key}.") and name not in taken]
            found[f.name] = {name.removeprefix(f"{key}."): named[name] for name in names}
        elif key in named:
            found[f.name] = type(value)(named[key].item()) if isinstance(value, int | float) else named[key]
    return replace(initial, **found)


def _entries(state: PartState) -> Iterator[tuple[str, Field[Any], Any]]:
    """(key, field, value), nested states included."""
    for f in fields(state):
        value = getattr(state, f.name)
        if isinstance(value, PartState):
            yield from _entries(value)
        else:
            yield f.metadata["key"], f, value
