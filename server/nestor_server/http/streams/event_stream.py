"""Event streams: a trial's events as server-sent events, or as one page after a wait.

A stream holds no thread and no connection, so that thousands of quiet followers cost memory only.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Generator
from contextlib import contextmanager, suppress
from functools import partial
from time import monotonic
from typing import NamedTuple, TypeVar, final
from uuid import UUID

from fastapi import Response
from fastapi.sse import KEEPALIVE_COMMENT
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.types import Receive, Scope, Send

from nestor.errors import ServerBusy, TooManyStreams
from nestor.schemas import Event, EventPage, EventType
from nestor_server.http.streams.feeds import Feed, Feeds, encode
from nestor_server.http.transactions import Transactions
from nestor_server.services.access import tokens
from nestor_server.services.records import events
from nestor_server.services.records.events import Page
from nestor_server.services.trials import queries
from nestor_server.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

FULL_SECONDS = 10  # after which a user who has too many streams should try again


@final
class AwaitedJSON(Response):
    """JSON that is waited for, without a thread, before the response begins."""

    media_type = "application/json"

    def __init__(self, content: Callable[[], Awaitable[BaseModel]], headers: dict[str, str]) -> None:
        super().__init__(headers=headers)
        self._content, self._headers = content, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the content when it is there."""
        body = (await self._content()).model_dump_json()
        await Response(body, headers=self._headers, media_type=self.media_type)(scope, receive, send)


class Follower(NamedTuple):
    """Who reads a stream: a user, with a token or in a browser's session, of a trial."""

    user_id: UUID
    credential_id: UUID
    trial_id: UUID


@final
class EventStreams:
    """The streams of this process.

    Args:
        transactions: for reading events, apart from those of other requests.
    """

    def __init__(self, transactions: Transactions, settings: Settings) -> None:
        self._transactions, self._settings = transactions, settings
        self._feeds = Feeds(self._read, settings.stream_poll_seconds)
        self._closing = False
        self._open: Counter[Follower] = Counter()
        self._of_users: Counter[UUID] = Counter()
        self._ended: set[UUID] = set()  # of their trials and credentials, as of the last check

    @property
    def n_open(self) -> int:
        """The number of open streams."""
        return self._open.total()

    def notice(self, trial_id: UUID | None) -> None:
        """A trial may have new events; None: each may."""
        self._feeds.notice(trial_id)

    def close(self) -> None:
        """End all streams. Their followers reconnect, to the next server. Only call this in the event loop's thread."""
        self._closing = True
        self._feeds.wake()

    async def check(self) -> None:
        """End the streams whose token, session or study has ended, again and again until this task is cancelled.

        Two statements for all streams take the place of notifications, which could be lost, and find what expires.
        """
        while True:
            await asyncio.sleep(self._settings.stream_ping_seconds)
            if not self._open:
                continue
            with suppress(SQLAlchemyError, ServerBusy):  # the streams themselves report it
                self._ended = await self._transactions.run(partial(_ended, followers=frozenset(self._open)))
                if self._ended:
                    self._feeds.wake()

    def admit(self, user_id: UUID) -> None:
        """Let a user open one more stream. Several that are opened at the same moment may be too many.

        Raises:
            TooManyStreams
        """
        if self._of_users[user_id] >= self._settings.max_streams:
            raise TooManyStreams(limit=self._settings.max_streams, retry_after=FULL_SECONDS)

    async def sse(self, follower: Follower, after: int, seq: int) -> AsyncIterator[bytes]:
        """Server-sent events whose seq is above `after`.

        The stream ends with the trial. It is cut when the server shuts down, when the study is deleted, and when its
        token or session is no longer valid.

        Args:
            seq: the trial's present one.
        """
        trial_id = follower.trial_id
        with self._holding(follower), self._feeds.subscribe(trial_id, seq) as feed:
            while not self._closing and self._ended.isdisjoint((trial_id, follower.credential_id)):
                changed = feed.changed
                try:
                    passage = await feed.after(after)
                except (SQLAlchemyError, ServerBusy) as error:
                    log.warning("a stream of trial %s waits for the database: %s", trial_id, error)
                    await asyncio.sleep(self._settings.stream_poll_seconds)
                    continue
                if passage is None:
                    if not await _is_set(changed, self._settings.stream_ping_seconds):
                        yield KEEPALIVE_COMMENT
                    continue
                if passage.data:
                    yield passage.data
                after = passage.next_after
                if passage.end is not None:
                    yield encode(EventType.end, max(after, passage.end["seq"]), passage.end)
                    return

    @contextmanager
    def _holding(self, follower: Follower) -> Generator[None]:
        """Count a stream."""
        self._open[follower] += 1
        self._of_users[follower.user_id] += 1
        try:
            yield
        finally:
            _release(self._open, follower)
            _release(self._of_users, follower.user_id)

    async def page(self, follower: Follower, after: int, seq: int, wait: float) -> EventPage:
        """The events whose seq is above `after`. Without one, wait for up to `wait` seconds.

        Args:
            seq: the trial's present one.
        """
        page = await self._read(follower.trial_id, after)
        if wait and not page.items and page.end is None:
            with self._holding(follower), self._feeds.subscribe(follower.trial_id, seq) as feed:
                page = await self._next_page(feed, after, monotonic() + wait)
        items, next_after = page.items, page.next_after
        if page.end is not None:
            end = Event(seq=max(next_after, page.end["seq"]), type=EventType.end, data=page.end)
            items, next_after = (*items, end), end.seq
        return EventPage(items=items, next_after=next_after, ended=page.end is not None)

    async def _next_page(self, feed: Feed, after: int, deadline: float) -> Page:
        while True:
            changed = feed.changed
            page = await self._read(feed.trial_id, after)
            if page.items or page.end is not None or monotonic() >= deadline or self._closing:
                return page
            await _is_set(changed, deadline - monotonic())

    async def _read(self, trial_id: UUID, after: int) -> Page:
        return await self._transactions.run(lambda session: events.read(session, trial_id, after))


def _release(counter: Counter[T], key: T) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


def _ended(session: Session, followers: Collection[Follower]) -> set[UUID]:
    """The trials of deleted studies, and the tokens and sessions that are no longer valid, of these followers."""
    invalid = tokens.invalid(session, {follower.credential_id for follower in followers})
    return invalid | queries.deleted(session, {follower.trial_id for follower in followers})


async def _is_set(event: asyncio.Event, seconds: float) -> bool:
    """Whether `event` is set within `seconds`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await event.wait()
    return False
