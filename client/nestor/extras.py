"""Imports that need more than the thin client, with a sentence in place of a ModuleNotFoundError."""

from __future__ import annotations

import importlib
from types import ModuleType

from nestor.errors import MissingExtra


def require(module: str, *, what: str, extra: str, package: str | None = None) -> ModuleType:
    """Import `module`, for `what`, from an optional dependency.

    Raises:
        MissingExtra: `package`, or something that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("nestor", "nestor_engine"):
            raise  # a hole in Nestor itself is no missing extra
        raise MissingExtra(what=what, package=package or error.name, extra=extra) from error


def engine(module: str = "nestor_engine", *, what: str) -> ModuleType:
    return require(module, what=what, extra="worker")
