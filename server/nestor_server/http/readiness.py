"""Whether the server can work, asked by load balancers as often as they like."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import final

from nestor.schemas import Health
from nestor_server.database import Sessions
from nestor_server.services import readiness
from nestor_server.settings import Settings

VALID_SECONDS = 1.0


@final
class Readiness:
    """The checks of `services.readiness` in a thread and with connections of their own, at most once per second."""

    def __init__(self, sessions: Sessions, settings: Settings) -> None:
        self._sessions, self._settings = sessions, settings
        self._one_at_a_time = asyncio.Lock()
        self._health: Health | None = None
        self._checked = 0.0

    async def check(self) -> Health:
        """The health as of the last second."""
        async with self._one_at_a_time:
            if self._health is None or monotonic() - self._checked > VALID_SECONDS:
                self._health = await asyncio.to_thread(readiness.check, self._sessions, self._settings)
                self._checked = monotonic()
            return self._health
