"""Keep what torch logs and warns about from the user, in the calling thread only.

Levels of loggers and filters of warnings apply to all threads. So these filters look at the thread, and nothing else
changes.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, cast

from nestor_engine.autodiff.kernels import twice_differentiable


@dataclass(frozen=True)
class Heard:
    """A warning: its text and its class, as `warnings.WarningMessage` names them."""

    message: str
    category: type[Warning]


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Use kernels that are twice differentiable, and show neither warnings nor torch's log."""
    with hear_warnings(), unlogged(), twice_differentiable():
        yield


@contextlib.contextmanager
def hear_warnings() -> Generator[list[Heard]]:
    """Show no warnings of this thread; yields a list that gets them instead.

    Unlike `warnings.catch_warnings`, which catches those of all threads.
    """
    listener = _Listener()
    # The public function also has modules forget what they have shown; its entry only marks the place.
    marker = type("_Marker", (Warning,), {})
    warnings.simplefilter("ignore", marker)
    filters = cast("list[Any]", warnings.filters)
    _replace(filters, 2, marker, [("ignore", listener, listener, None, 0)])
    try:
        yield listener.heard
    finally:
        listener.stop()
        for one in (filters, cast("list[Any]", warnings.filters)):  # another thread may be in `catch_warnings`
            _replace(one, 1, listener, [])


@contextlib.contextmanager
def unlogged() -> Generator[None]:
    """Drop what torch logs in this thread."""
    quiet = _NotOfTorch(threading.get_ident())
    handlers = _handlers()
    for handler in handlers:
        handler.addFilter(quiet)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(quiet)


class _Listener:
    """Takes the place of a message's pattern and of a category in a filter; matches warnings of its thread."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self._thread: int | None = threading.get_ident()
        self._text = ""

    def match(self, text: str) -> bool:
        """Whether a warning's text is heard."""
        self._text = text
        return threading.get_ident() == self._thread

    def __subclasscheck__(self, category: type[Warning]) -> bool:
        """Whether warnings of `category` are heard, which is asked after `match`."""
        if threading.get_ident() != self._thread:
            return False
        self.heard.append(Heard(self._text, category))
        return True

    def stop(self) -> None:
        """Match no more warnings, also in copies of the filters."""
        self._thread = None


class _NotOfTorch(logging.Filter):
    def __init__(self, thread: int) -> None:
        super().__init__()
        self._thread = thread

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread or record.name.partition(".")[0] != "torch"


def _handlers() -> list[logging.Handler]:
    """All handlers that torch's records reach."""
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in _loggers_of_torch())]
    last = [] if logging.lastResort is None else [logging.lastResort]
    return list(dict.fromkeys([*(handler for logger in loggers for handler in logger.handlers), *last]))


def _loggers_of_torch() -> list[str]:
    return [name for name in list(logging.root.manager.loggerDict) if name.partition(".")[0] == "torch"]


def _replace(filters: list[Any], field: int, value: object, entries: list[Any]) -> None:
    """Put `entries` in the place of the first filter whose `field` is `value`."""
    place = next((place for place, entry in enumerate(filters) if entry[field] is value), None)
    if place is not None:
        filters[place : place + 1] = entries
