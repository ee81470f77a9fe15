"""Imports of optional dependencies, with `MissingExtra` instead of ModuleNotFoundError."""

from __future__ import annotations

import importlib
from types import ModuleType

from nestor.errors import MissingExtra


def require(module: str, *, what: str, extra: str, package: str | None = None) -> ModuleType:
    """Import `module` from an optional dependency.

    Args:
        what: the feature that needs it, as the error names it.
        extra: the extra of `pip install 'nestor[…]'` that contains it.
        package: its name on PyPI; by default the name of the module that was not found.

    Raises:
        MissingExtra: `package`, or a dependency of it, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("nestor", "nestor_engine"):
            raise  # a broken installation of Nestor, not a missing extra
        raise MissingExtra(what=what, package=package or error.name, extra=extra) from error


def engine(module: str = "nestor_engine", *, what: str) -> ModuleType:
    """Import a module of the engine, which needs the extra `worker`.

    Raises:
        MissingExtra
    """
    return require(module, what=what, extra="worker")
