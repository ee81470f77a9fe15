"""What a runner says and writes, in bounded memory, whatever it says and however much it writes."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from contextlib import suppress

from nestor_worker.channel import Message

LOG_BYTES = 16_384  # of a log that are kept: its end
PIECE_BYTES = 65_536


class Inbox:
    """Messages in their order: at most `limit` bytes of them, and one more."""

    def __init__(self, limit: int) -> None:
        self._limit, self._total = limit, 0
        self._messages: deque[tuple[Message | None, int]] = deque()
        self._changed = threading.Condition()

    def put(self, message: Message | None, nbytes: int) -> None:
        """Append a message of so many bytes, once there is space."""
        with self._changed:
            self._changed.wait_for(lambda: self._total < self._limit)
            self._messages.append((message, nbytes))
            self._total += nbytes
            self._changed.notify_all()

    def get(self, timeout: float) -> Message | None:
        """The next message, within so many seconds.

        Raises:
            Empty: no message came.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._messages, timeout):
                raise queue.Empty
            message, nbytes = self._messages.popleft()
            self._total -= nbytes
            self._changed.notify_all()
        return message


class RunnerLog:
    """The end of what a process writes on its standard error.

    Attributes:
        target: where the process writes. Close it with `started`, once the process has it.
    """

    def __init__(self, name: str) -> None:
        source, self.target = os.pipe()
        self._end = b""
        self._thread = threading.Thread(target=self._read, args=(source,), name=name, daemon=True)
        self._thread.start()

    def started(self) -> None:
        """Close our copy of the writing end, so that the end of the process is the end of the log."""
        os.close(self.target)

    def last_line(self) -> str:
        """The last line that is not empty; "" if all are."""
        self._thread.join(timeout=1)  # it may still read what an ended process has written
        lines = self._end.decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _read(self, source: int) -> None:
        with suppress(OSError):
            while piece := os.read(source, PIECE_BYTES):
                self._end = (self._end + piece)[-LOG_BYTES:]
        os.close(source)
