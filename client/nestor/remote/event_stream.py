"""Streams a trial's events: each once and in order, over connections that may break."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Iterator
from uuid import UUID

import httpx
from httpx_sse import EventSource, ServerSentEvent

from nestor.errors import AnswerUnreadable, SchemaInvalid, ServerUnreachable
from nestor.remote.transport import RetryLater, Transport, reason_of
from nestor.schemas import Event, EventType

log = logging.getLogger(__name__)

SILENCE_SECONDS = 60.0  # the server sends a comment every 15 s, so a connection without data for this long is dead
GIVE_UP_SECONDS = 600.0  # without a response; restarts of a server for an update take less
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.2, 15.0


def follow(transport: Transport, trial_id: UUID, after: int = 0) -> Iterator[Event]:
    """Yield the trial's events with a number above `after`, and return after the one of type `end`.

    A broken connection is opened again after the last event that was received.

    Raises:
        ServerUnreachable: the server does not respond for ten minutes, or not at all to the first request.
        NestorError: the server refuses, for example because the token was revoked, or lets wait for ten minutes.
    """
    pauses = _Pauses()
    while True:
        try:
            for event in _connection(transport, trial_id, after):
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
        if not pauses.sleep(wait):
            raise refusal or ServerUnreachable(server=transport.server, reason=reason)


def _connection(transport: Transport, trial_id: UUID, after: int) -> Iterator[Event | None]:
    """The events of one connection until it ends; None for other data, which shows that the server is alive."""
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store", "Last-Event-ID": str(after)}
    timeout = httpx.Timeout(10.0, read=SILENCE_SECONDS)
    with transport.stream(f"/trials/{trial_id}/events", headers=headers, timeout=timeout) as response:
        for message in EventSource(response).iter_sse():
            event = event_of(message)
            # Drop repeated events, which proxies may cause. `end` has no number of its own.
            if event is not None and (event.seq > after or event.type is EventType.end):
                after = event.seq
                yield event
            else:
                yield None


def event_of(message: ServerSentEvent) -> Event | None:
    """The event in a message of the stream; None for a comment.

    Raises:
        AnswerUnreadable: the message is something else.
    """
    if not message.data:  # a comment that keeps the connection open
        return None
    try:
        return Event(seq=int(message.id), type=EventType(message.event), data=json.loads(message.data))
    except (ValueError, SchemaInvalid) as error:
        raise AnswerUnreadable(server="the server", path="/events", reason=error) from error


class _Pauses:
    """Pauses between connections: each is longer than the last, until a connection delivers data."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._pause, self._since = FIRST_PAUSE_SECONDS, time.monotonic()

    def sleep(self, wait: float | None) -> bool:
        """Sleep for `wait` seconds if the server gave them; False, without sleeping, after `GIVE_UP_SECONDS`."""
        if time.monotonic() - self._since > GIVE_UP_SECONDS:
            return False
        # With jitter, so that not all readers reconnect to a restarted server at the same time.
        time.sleep(self._pause * random.uniform(0.5, 1.0) if wait is None else wait)
        self._pause = min(2 * self._pause, MAX_PAUSE_SECONDS)
        return True
