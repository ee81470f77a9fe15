"""Feeds: the events of a trial, read once and encoded once for all its streams in this process.

A feed follows the trial while it has streams, and keeps the newest events as the bytes that streams send. A stream that
is further behind reads pages of older events. Streams that read the same page share it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, final
from uuid import UUID

from fastapi.sse import format_sse_event
from sqlalchemy.exc import SQLAlchemyError

from nestor.errors import ServerBusy
from nestor.schemas import EventType
from nestor_server.services.records.events import Page

log = logging.getLogger(__name__)

TAIL_BYTES = 2**18  # of the newest events of a trial
SHARED_PAGES = 8  # of older events of a trial
SHARED_SECONDS = 2.0  # after which a page is read again, so that it has no steps that were rolled back

Read = Callable[[UUID, int], Awaitable[Page]]


@dataclass(frozen=True)
class Passage:
    """Consecutive events as server-sent events, and the `seq` after which the next ones begin."""

    data: bytes
    next_after: int
    end: dict[str, Any] | None = None  # the data of the `end` event, if nothing follows


def encode(type: EventType, seq: int, data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return format_sse_event(data_str=json.dumps(data, ensure_ascii=False), event=type.value, id=str(seq))


@final
class Feed:
    """The events of one trial.

    Args:
        last: a `seq` of the trial, from which on the feed follows it.
    """

    def __init__(self, trial_id: UUID, last: int, read: Read, poll_seconds: float) -> None:
        self.trial_id = trial_id
        self.n_streams = 0
        self.changed = asyncio.Event()  # set once, when there are new events; then it is replaced
        self.end: dict[str, Any] | None = None
        self._read, self._poll_seconds = read, poll_seconds
        self._noticed = asyncio.Event()
        self._start = self._last = last  # the tail holds all events whose seq is above `_start`, up to `_last`
        self._tail: list[tuple[int, bytes]] = []
        self._joined: dict[int, Passage] = {}  # the events of the tail after a seq
        self._pages: dict[int, asyncio.Task[Passage]] = {}  # older events after a seq, for streams that need them now
        self._following = asyncio.create_task(self._follow())

    def notice(self) -> None:
        """There may be new events."""
        self._noticed.set()

    def wake(self) -> None:
        """Let all streams look for what is new."""
        self.changed.set()
        self.changed = asyncio.Event()

    def close(self) -> None:
        """Follow the trial no longer."""
        self._following.cancel()

    async def after(self, seq: int) -> Passage | None:
        """The next events whose seq is above `seq`; None if no event follows yet.

        Raises:
            SQLAlchemyError, ServerBusy: older events are needed, and the database does not answer.
        """
        if seq < self._start:
            return await self._page(seq)
        if seq < self._last:
            if seq not in self._joined:
                first = bisect_right(self._tail, seq, key=lambda event: event[0])
                self._joined[seq] = Passage(b"".join(data for _, data in self._tail[first:]), self._last)
            return self._joined[seq]
        return None if self.end is None else Passage(b"", seq, self.end)

    async def _follow(self) -> None:
        while self.end is None:
            self._noticed.clear()  # before reading, so that events that arrive meanwhile are read next
            try:
                page = await self._read(self.trial_id, self._last)
            except (SQLAlchemyError, ServerBusy) as error:
                log.warning("the streams of trial %s wait for the database: %s", self.trial_id, error)
                page = Page((), self._last, is_full=False, end=None)
            if page.items or page.end is not None:
                self._add(page)
            if not page.is_full and self.end is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_seconds):
                        await self._noticed.wait()

    def _add(self, page: Page) -> None:
        for event in page.items:
            if event.type is EventType.rewind:  # the steps before it are no longer those in the database
                self._forget(len(self._tail), event.seq - 1)
                self._pages.clear()
            self._tail.append((event.seq, encode(event.type, event.seq, event.data)))
        self._last, self.end = page.next_after, page.end
        size, kept, newest = 0, len(self._tail), len(self._tail) - len(page.items)
        while kept and (size <= TAIL_BYTES or kept > newest):
            kept -= 1
            size += len(self._tail[kept][1])
        if kept:
            self._forget(kept, self._tail[kept - 1][0])
        self._joined.clear()
        self.wake()

    def _forget(self, n: int, start: int) -> None:
        del self._tail[:n]
        self._start = start

    async def _page(self, seq: int) -> Passage:
        """A page of older events. Streams that ask at about the same time share it."""
        task = self._pages.get(seq)
        if task is None:
            task = self._pages[seq] = asyncio.create_task(self._load(seq))
            if len(self._pages) > SHARED_PAGES:
                del self._pages[next(iter(self._pages))]
            asyncio.get_running_loop().call_later(SHARED_SECONDS, self._drop, seq, task)
        try:
            return await asyncio.shield(task)  # the stream that asked first may leave
        except (SQLAlchemyError, ServerBusy):
            self._drop(seq, task)
            raise

    async def _load(self, seq: int) -> Passage:
        start = self._start
        page = await self._read(self.trial_id, seq)
        data = b"".join(encode(event.type, event.seq, event.data) for event in page.items)
        # Events that were rolled back leave gaps. A page that is not full has all events up to the tail.
        return Passage(data, page.next_after if page.is_full else max(page.next_after, start), page.end)

    def _drop(self, seq: int, task: asyncio.Task[Passage]) -> None:
        if self._pages.get(seq) is task:
            del self._pages[seq]


@final
class Feeds:
    """The feeds of the trials that have streams.

    Args:
        read: the page of a trial's events after a seq.
        poll_seconds: between two reads of a trial without a notification.
    """

    def __init__(self, read: Read, poll_seconds: float) -> None:
        self._read, self._poll_seconds = read, poll_seconds
        self._feeds: dict[UUID, Feed] = {}

    @contextmanager
    def subscribe(self, trial_id: UUID, last: int) -> Generator[Feed]:
        """The feed of a trial, whose `seq` is or was `last`."""
        feed = self._feeds.get(trial_id)
        if feed is None or feed.end is not None:  # a trial that had ended may have been extended
            feed = self._feeds[trial_id] = Feed(trial_id, last, self._read, self._poll_seconds)
        feed.n_streams += 1
        try:
            yield feed
        finally:
            feed.n_streams -= 1
            if not feed.n_streams:
                feed.close()
                if self._feeds.get(trial_id) is feed:
                    del self._feeds[trial_id]

    def notice(self, trial_id: UUID | None) -> None:
        """A trial may have new events; None: each may."""
        noticed = self._feeds.values() if trial_id is None else filter(None, [self._feeds.get(trial_id)])
        for feed in noticed:
            feed.notice()

    def wake(self) -> None:
        """Let all streams look for what is new, such as for the end of the server."""
        for feed in self._feeds.values():
            feed.wake()
