"""How many requests of a user this process answers in a minute."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from time import monotonic
from typing import final
from uuid import UUID

from nestor.errors import TooManyRequests
from nestor_server.limits.remembered import Remembered

MINUTE = 60.0  # seconds


@final
class RequestRate:
    """At most `per_minute` requests of each user in a minute, all at once or one after the other.

    This is the generic cell rate algorithm: each request moves the moment on at which the user would be back at none,
    and no request may move it further than a minute ahead.

    Args:
        clock: seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._lock = threading.Lock()
        self._clear_at: Remembered[UUID, float] = Remembered()

    def take(self, user_id: UUID) -> None:
        """Count a request of this user.

        Raises:
            TooManyRequests: it comes too soon, and is not counted.
        """
        with self._lock:
            now = self._clock()
            clear_at = max(now, self._clear_at.get(user_id) or now) + MINUTE / self._per_minute
            if (wait := clear_at - now - MINUTE) > 1e-9:
                raise TooManyRequests(limit=self._per_minute, retry_after=math.ceil(wait))
            self._clear_at.put(user_id, clear_at)
