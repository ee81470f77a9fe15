"""Logs of servers and workers: lines of text, or of JSON with what a line is about."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, TypeVar, final

from nestor_server.observability import traces

T = TypeVar("T")

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# Fields of JSON lines besides time, level, logger and message: from `about` and `note`, or from a call's `extra`.
FIELDS = ("request_id", "trial_id", "attempt", "worker", "method", "path", "status", "duration_seconds")

_about: ContextVar[dict[str, Any] | None] = ContextVar("about", default=None)


def configure(format: Literal["text", "json"], level: int | str = logging.INFO) -> None:
    """Log to standard error. In JSON, warnings of Python and uncaught exceptions are lines of the log, too."""
    logging.basicConfig(level=level)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it would log at every request to /readyz
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_JsonLines() if format == "json" else _TextLines(TEXT))
    if format == "json":
        logging.captureWarnings(True)
        sys.excepthook = _log_exception
        threading.excepthook = lambda args: _log_exception(args.exc_type, args.exc_value, args.exc_traceback)


@contextmanager
def about(**fields: Any) -> Generator[None]:
    """Add `fields`, some of `FIELDS`, to the lines that are logged inside the block, by what it calls."""
    token = _about.set({**(_about.get() or {}), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def note(**fields: Any) -> None:
    """Add `fields` to the further lines of the innermost `about`: what is known only now."""
    if (known := _about.get()) is not None:
        known.update(fields)


def in_thread(function: Callable[[], T]) -> Callable[[], T]:
    """`function` for another thread: its lines are about the same as those of this one, its spans below the same."""
    context = copy_context()
    return lambda: context.run(function)


@final
class _TextLines(logging.Formatter):
    """Each message on one line. Messages quote what users send, which could look like lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """One line without control characters."""
        return escaped(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """A traceback, whose lines are indented: no other line begins with a space."""
        return "\n".join(f"  {escaped(line)}" for line in super().formatException(ei).split("\n"))


def escaped(text: str) -> str:
    """`text` with backslashes for what a terminal or a reader of lines would not show as it is."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


@final
class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        given = {name: vars(record)[name] for name in FIELDS if name in vars(record)}
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **(_about.get() or {}),
            **given,
        }
        if (trace_id := traces.current_trace_id()) is not None:
            line["trace_id"] = trace_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)  # in ASCII, so that no character is a line's end to any reader


def _log_exception(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Log what ends a program or a thread, unless this was asked for: by `sys.exit`, or by Ctrl-C."""
    if error is not None and not issubclass(kind, SystemExit | KeyboardInterrupt):
        logging.getLogger("nestor").critical("uncaught %s", kind.__name__, exc_info=(kind, error, trace))
