"""What this process remembers of users: of a bounded number, so that many of them do not fill its memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar, final

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MOST = 10_000


@final
class Remembered(Generic[K, V]):
    """The values that were put last, by key. Threads may use it at the same time.

    Args:
        most: values; beyond, the one that was put longest ago is forgotten.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._values: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """The value that was put last; None: it was never put, or it is forgotten."""
        with self._lock:
            return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        """Remember a value in place of an earlier one."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            if len(self._values) > self._most:
                self._values.popitem(last=False)
