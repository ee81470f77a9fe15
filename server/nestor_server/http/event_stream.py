"""Event streams. They are asynchronous, so that a thousand idle readers do not hold a thousand threads.

One connection per process listens for notifications and wakes the streams of the trial that they name. Each stream then
reads the events after its cursor from Postgres. A notification is a hint: streams also poll, in case one is lost.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any
from uuid import UUID

import psycopg
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from nestor.schemas import Event, EventPage, EventType
from nestor_server.database import Sessions, plain_url
from nestor_server.scheduling.event_log import CHANNEL
from nestor_server.services.records import events
from nestor_server.services.records.events import Page
from nestor_server.settings import Settings

log = logging.getLogger(__name__)

MAX_RECONNECT_SECONDS = 5.0


class Listener:
    """Receives Postgres notifications and wakes the streams of their trials. It reconnects after failures."""

    def __init__(self, settings: Settings) -> None:
        self._url = plain_url(settings.database_url)
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self.closing = False  # the server shuts down: streams end, and their readers reconnect to the next server

    @contextmanager
    def subscribe(self, trial_id: UUID) -> Generator[asyncio.Event]:
        """An event that is set with each notification of the trial. The subscriber clears it."""
        woken, key = asyncio.Event(), str(trial_id)
        self._waiting[key].add(woken)
        try:
            yield woken
        finally:
            self._waiting[key].discard(woken)
            if not self._waiting[key]:
                del self._waiting[key]

    def close(self) -> None:
        """End all streams. Only call this in the event loop's thread."""
        self.closing = True
        self._wake_all()

    async def run(self) -> None:
        """Listen until this task is cancelled."""
        pause = 0.1
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._url, autocommit=True, connect_timeout=5, application_name="nestor-listen", keepalives_idle=30
                ) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    pause = 0.1
                    self._wake_all()  # notifications may have been lost while there was no connection
                    async for notification in connection.notifies():
                        for woken in self._waiting.get(notification.payload, ()):
                            woken.set()
            except (psycopg.Error, OSError) as error:
                log.warning("not listening: %s; streams poll meanwhile, next attempt in %.1f s", error, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_RECONNECT_SECONDS)

    def _wake_all(self) -> None:
        for waiting in self._waiting.values():
            for woken in waiting:
                woken.set()


class EventStreams:
    """A trial's events for the routes: as server-sent events, or as one page after a wait."""

    def __init__(self, sessions: Sessions, listener: Listener, settings: Settings) -> None:
        self._sessions, self._listener, self._settings = sessions, listener, settings

    async def sse(self, trial_id: UUID, after: int) -> AsyncIterator[bytes]:
        """Server-sent events whose seq is above `after`, until the trial ends or the server shuts down."""
        quiet_since = monotonic()
        with self._listener.subscribe(trial_id) as woken:
            while not self._listener.closing:
                woken.clear()  # before reading, so that events that arrive meanwhile wake this stream again
                try:
                    page = await run_in_threadpool(self._read, trial_id, after)
                except SQLAlchemyError as error:
                    log.warning("a stream of trial %s waits for the database: %s", trial_id, error)
                    page = Page((), after, None)
                for event in page.items:
                    yield _sse(event.type, event.seq, event.data)
                after = page.next_after
                if page.end is not None:
                    yield _sse(EventType.end, max(after, page.end["seq"]), page.end)
                    return
                if page.items:
                    quiet_since = monotonic()
                    if len(page.items) == events.PAGE:
                        continue
                elif monotonic() - quiet_since >= self._settings.stream_ping_seconds:
                    yield KEEPALIVE_COMMENT
                    quiet_since = monotonic()
                await self._wait(woken, self._settings.stream_ping_seconds - (monotonic() - quiet_since))

    async def page(self, trial_id: UUID, after: int, wait: float) -> EventPage:
        """The events whose seq is above `after`. Without one, wait for up to `wait` seconds."""
        deadline = monotonic() + wait
        with self._listener.subscribe(trial_id) as woken:
            while True:
                woken.clear()
                page = await run_in_threadpool(self._read, trial_id, after)
                if page.items or page.end is not None or monotonic() >= deadline or self._listener.closing:
                    break
                await self._wait(woken, deadline - monotonic())
        items, next_after = page.items, page.next_after
        if page.end is not None:
            end = Event(seq=max(next_after, page.end["seq"]), type=EventType.end, data=page.end)
            items, next_after = (*items, end), end.seq
        return EventPage(items=items, next_after=next_after, ended=page.end is not None)

    def _read(self, trial_id: UUID, after: int) -> Page:
        with self._sessions() as session:
            return events.read(session, trial_id, after)

    async def _wait(self, woken: asyncio.Event, timeout: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(woken.wait(), max(0.01, min(timeout, self._settings.stream_poll_seconds)))


def _sse(type: EventType, seq: int, data: dict[str, Any]) -> bytes:
    return format_sse_event(data_str=json.dumps(data, ensure_ascii=False), event=type.value, id=str(seq))
