"""A trial's events as they happen: each once and in order, whatever happens to the connection."""

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
from nestor.remote.transport import Busy, Transport, reason_of
from nestor.schemas import Event, EventType

log = logging.getLogger(__name__)

SILENCE_SECONDS = 60.0  # the server sends a comment every 15 s; a connection that is silent for longer is dead
PATIENCE_SECONDS = 600.0  # without an answer: a server that is being updated comes back sooner
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 15.0


def follow(transport: Transport, trial_id: UUID, after: int = 0) -> Iterator[Event]:
    """Yield the trial's events later than number `after`; return after the one of type `end`.

    A connection that breaks is opened again behind the last event that was seen.

    Raises:
        ServerUnreachable: nobody answers for ten minutes, or nobody ever did.
        NestorError: the server refuses, for example a token that was revoked meanwhile.
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
            reason, wait = "the server closed the stream", None
        except Busy as busy:
            reason, wait = str(busy), busy.after
        except httpx.TransportError as error:
            reason, wait = reason_of(error), None
            if not transport.met:
                raise ServerUnreachable(server=transport.server, reason=reason) from error
        log.info("the stream of trial %s broke after event %d (%s); opening it again", trial_id, after, reason)
        if not pauses.sleep(wait):
            raise ServerUnreachable(server=transport.server, reason=reason)


def _connection(transport: Transport, trial_id: UUID, after: int) -> Iterator[Event | None]:
    """What one connection brings, until it ends; None for a sign of life without an event."""
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store", "Last-Event-ID": str(after)}
    timeout = httpx.Timeout(10.0, read=SILENCE_SECONDS)
    with transport.stream(f"/trials/{trial_id}/events", headers=headers, timeout=timeout) as response:
        for sent in EventSource(response).iter_sse():
            event = _event(sent)
            # A number that was seen is a repetition by something in between; `end` is no entry and may share one.
            fresh = event is not None and (event.seq > after or event.type is EventType.end)
            if event is not None and fresh:
                after = event.seq
            yield event if fresh else None


def _event(sent: ServerSentEvent) -> Event | None:
    if not sent.data:  # a comment that keeps the connection open
        return None
    try:
        return Event(seq=int(sent.id), type=EventType(sent.event), data=json.loads(sent.data))
    except (ValueError, SchemaInvalid) as error:
        raise AnswerUnreadable(server="the server", path="/events", reason=error) from error


class _Pauses:
    """Ever longer pauses between two connections, until one of them brings something."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._pause, self._since = FIRST_PAUSE_SECONDS, time.monotonic()

    def sleep(self, wait: float | None) -> bool:
        """Pause, or for as long as the server asks; False when patience is at an end."""
        if time.monotonic() - self._since > PATIENCE_SECONDS:
            return False
        # With jitter, so that a server that comes back does not meet all its readers at once.
        time.sleep(self._pause * random.uniform(0.5, 1.0) if wait is None else wait)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        return True
