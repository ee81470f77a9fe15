"""From an option to the object that computes it.

An option is implemented by a class that inherits from it and from the family's interface here:
`class Neumann(options.Neumann, Solver)`. Its definition registers it, so no list of implementations is necessary.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from contextlib import suppress
from typing import Any, TypeVar, cast

from nestor.errors import OptionUnknown
from nestor.options import OPTIONS, Option

_PACKAGES = ("optim", "curvature", "solvers", "responses")  # whose modules hold implementations
_IMPLEMENTATIONS: dict[type[Option], type[Option]] = {}

Class = TypeVar("Class")


class Implementation(Option):
    """Base class of implementations. Options in its fields are replaced by implementations."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for base in cls.__bases__:
            if OPTIONS.get(base.__name__) is base:
                _IMPLEMENTATIONS[cast(type[Option], base)] = cls

    def __post_init__(self) -> None:
        for field in dataclasses.fields(cast(Any, self)):
            if isinstance(part := getattr(self, field.name), Option):
                object.__setattr__(self, field.name, implementation(part))


def implementation(option: Option) -> Any:
    """The implementation of `option` and of the options in its fields; an implementation is returned unchanged.

    Raises:
        OptionUnknown: this version has no code for it.
    """
    if isinstance(option, Implementation):
        return option
    cls = implementation_of(type(option))
    return cls(**{field.name: getattr(option, field.name) for field in dataclasses.fields(cast(Any, option))})


def implementation_of(declared: type[Option]) -> type[Any]:
    """The class that computes options of the class `declared`.

    Raises:
        OptionUnknown: this version has no code for it.
    """
    if declared not in _IMPLEMENTATIONS:
        _discover()
    if declared not in _IMPLEMENTATIONS:
        raise OptionUnknown(option=declared.__name__, rule="nestor_engine does not implement it")
    return _IMPLEMENTATIONS[declared]


def implementation_named(module: str, name: str) -> type[Any]:
    """For `__getattr__` of a package: the class that computes the option of that name.

    Raises:
        AttributeError: no option has this name.
    """
    if (declared := OPTIONS.get(name)) is not None:
        with suppress(OptionUnknown):  # a preset
            # Folds and EarlyStopping need no code of the engine.
            return implementation_of(declared) if declared.families() else declared
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


def _discover() -> None:
    """Import every module that may hold an implementation."""
    for package in _PACKAGES:
        folder = importlib.import_module(f"nestor_engine.{package}")
        for module in pkgutil.iter_modules(folder.__path__, f"{folder.__name__}."):
            importlib.import_module(module.name)
