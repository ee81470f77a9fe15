"""Logs of child processes: their last lines, and earlier parts of them in files of their own."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

MAX_BYTES = 10 * 2**20  # of a log, before it is moved to an earlier part
PARTS = 3  # earlier parts that are kept
TAIL_BYTES = 2_000  # of a log, shown if its process fails


def earlier(log: Path, number: int) -> Path:
    """An earlier part of a log, from 1, the newest, to PARTS."""
    return log.with_name(f"{log.name}.{number}")


def rotate(log: Path) -> int:
    """Move the contents of a log above MAX_BYTES to its first earlier part, and the oldest part away.

    The file stays the same, so its process goes on writing to it; the process must have opened it for appending. A line
    that is written between the copy and the cut is lost.

    Returns:
        The number of bytes that were moved. It is 0 if the log is missing, or if the copy cannot be written: the log
        then grows until a later call succeeds.
    """
    copy = log.with_name(f"{log.name}.new")
    try:
        if log.stat().st_size <= MAX_BYTES:
            return 0
        copy.unlink(missing_ok=True)  # of an owner that was killed here
        private = os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(private, "wb") as part, log.open("rb") as whole:
            shutil.copyfileobj(whole, part)
            moved = part.tell()
        for number in range(PARTS, 1, -1):
            with suppress(FileNotFoundError):
                earlier(log, number - 1).replace(earlier(log, number))
        copy.replace(earlier(log, 1))
        os.truncate(log, 0)
    except OSError:
        with suppress(OSError):
            copy.unlink(missing_ok=True)  # a useless file must not occupy scarce space
        return 0
    return moved


def tail(log: Path, start: int = -TAIL_BYTES) -> str:
    """The last 2,000 bytes of a log, without what comes before byte `start`, which counts back into the part before."""
    written = log.stat().st_size if log.exists() else 0
    first = max(start, written - TAIL_BYTES)
    text = _read(log, max(first, 0))
    if first < 0:
        part = earlier(log, 1)
        size = part.stat().st_size if part.exists() else 0
        text = _read(part, max(size + first, 0)) + text
    return text.decode(errors="replace").strip() or "(nothing)"


def _read(file: Path, start: int) -> bytes:
    with suppress(FileNotFoundError), file.open("rb") as opened:
        opened.seek(start)
        return opened.read()
    return b""
