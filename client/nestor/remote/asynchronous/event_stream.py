"""Streams a trial's events: each once and in order, over connections that may break.

Written by `python -m nestor.remote.asynchronous` from nestor.remote.event_stream.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
from httpx_sse import EventSource

from nestor.errors import ServerUnreachable
from nestor.remote.asynchronous.transport import AsyncTransport
from nestor.remote.event_stream import (
    FIRST_PAUSE_SECONDS,
    GIVE_UP_SECONDS,
    MAX_PAUSE_SECONDS,
    SILENCE_SECONDS,
    event_of,
)
from nestor.remote.transport import RetryLater, reason_of
from nestor.schemas import Event, EventType

log = logging.getLogger(__name__)


async def follow(transport: AsyncTransport, trial_id: UUID, after: int = 0) -> AsyncIterator[Event]:
    """Yield the trial's events with a number above `after`, and return after the one of type `end`.

    A broken connection is opened again after the last event that was received.

    Raises:
        ServerUnreachable: the server does not respond for ten minutes, or not at all to the first request.
        NestorError: the server refuses, for example because the token was revoked, or lets wait for ten minutes.
    """
    pauses = _Pauses()
    while True:
        try:
            async for event in _connection(transport, trial_id, after):
                pauses.reset()
                if event is None:
                    continue
                after = event.seq
                yield event
                if event.type is EventType.end:
                    return
            reason, wait, refusal = "the server closed the stream", None, None
        except RetryLater as error:
            reason, wait, refusal = str(error), error.after, error.error
        except httpx.TransportError as error:
            reason, wait, refusal = reason_of(error), None, None
            if not transport.connected_before:
                raise ServerUnreachable(server=transport.server, reason=reason) from error
        log.info("the stream of trial %s broke after event %d (%s); opening it again", trial_id, after, reason)
        if not await pauses.sleep(wait):
            raise refusal or ServerUnreachable(server=transport.server, reason=reason)


async def _connection(transport: AsyncTransport, trial_id: UUID, after: int) -> AsyncIterator[Event | None]:
    """The events of one connection until it ends; None for other data, which shows that the server is alive."""
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store", "Last-Event-ID": str(after)}
    timeout = httpx.Timeout(10.0, read=SILENCE_SECONDS)
    async with transport.stream(f"/trials/{trial_id}/events", headers=headers, timeout=timeout) as response:
        async for message in EventSource(response).aiter_sse():
            event = event_of(message)
            # Drop repeated events, which proxies may cause. `end` has no number of its own.
            if event is not None and (event.seq > after or event.type is EventType.end):
                after = event.seq
                yield event
            else:
                yield None


class _Pauses:
    """Pauses between connections: each is longer than the last, until a connection delivers data."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._pause, self._since = FIRST_PAUSE_SECONDS, time.monotonic()

    async def sleep(self, wait: float | None) -> bool:
        """Sleep for `wait` seconds if the server gave them; False, without sleeping, after `GIVE_UP_SECONDS`."""
        if time.monotonic() - self._since > GIVE_UP_SECONDS:
            return False
        # With jitter, so that not all readers reconnect to a restarted server at the same time.
        await asyncio.sleep(self._pause * random.uniform(0.5, 1.0) if wait is None else wait)
        self._pause = min(2 * self._pause, MAX_PAUSE_SECONDS)
        return True
