"""Feeds: many streams of one trial cost one read of each event, and each stream gets every event once, in order."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any
from uuid import UUID

from sqlalchemy.exc import OperationalError

from nestor.schemas import Event, EventType
from nestor_server.http.streams.feeds import Feeds
from nestor_server.services.records import events
from nestor_server.services.records.events import Page

TRIAL = UUID(int=1)
POLL_SECONDS = 60.0  # a test that needed it would be too slow to pass


class Log:
    """A trial's event log, as `services.records.events.read` shows it. It counts its reads."""

    def __init__(self, n: int) -> None:
        self.events: list[Event] = []
        self.seq, self.reads = 0, 0
        self.has_ended = self.is_away = False
        self.append(n)

    def append(self, n: int = 1, *, type: EventType = EventType.step, size: int = 10) -> None:
        for _ in range(n):
            self.seq += 1
            self.events.append(Event(seq=self.seq, type=type, data={"text": size * "x"}))

    def roll_back_to(self, seq: int) -> None:
        self.events = [event for event in self.events if event.seq <= seq]
        self.append(type=EventType.rewind)

    def end(self) -> None:
        self.has_ended = True

    async def read(self, trial_id: UUID, after: int) -> Page:
        self.reads += 1
        found = tuple(event for event in self.events if event.seq > after)[: events.PAGE]
        is_full = len(found) == events.PAGE
        end = {"state": "complete", "seq": self.seq} if self.has_ended and not is_full else None
        page = Page(found, found[-1].seq if found else after, is_full, end)
        await asyncio.sleep(0)  # other tasks run, as while the database works
        if self.is_away:
            raise OperationalError("SELECT", {}, Exception("away"))
        return page


async def stream(of: Feeds, last: int, after: int, seen: list[int], *, pause: Callable[[], int] = lambda: 0) -> None:
    """What `EventStreams.sse` does, for a reader who takes `pause()` turns of the event loop for each passage."""
    with of.subscribe(TRIAL, last) as feed:
        while True:
            changed = feed.changed
            passage = await feed.after(after)
            if passage is None:
                await changed.wait()
                continue
            seen += [int(number) for number in re.findall(rb"^id: (\d+)", passage.data, re.MULTILINE)]
            after = passage.next_after
            if passage.end is not None:
                return
            for _ in range(pause()):
                await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


def in_event_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine."""

    @wraps(test)
    def run(**arguments: Any) -> None:
        asyncio.run(test(**arguments))

    return run


@in_event_loop
async def test_a_hundred_streams_read_each_new_event_once():
    log, seen = Log(20), [[] for _ in range(100)]
    of = Feeds(log.read, POLL_SECONDS)
    async with asyncio.TaskGroup() as streams:
        for one in seen:
            streams.create_task(stream(of, log.seq, log.seq, one))
        await until(lambda: log.reads == 1)  # the feed looks once when it begins
        for n in range(1, 21):
            log.append()
            of.notice(TRIAL)
            await until(lambda n=n: all(len(one) == n for one in seen))
        assert log.reads == 1 + 20
        log.end()
        of.notice(TRIAL)
    assert all(one == list(range(21, 41)) for one in seen)


@in_event_loop
async def test_a_hundred_streams_that_begin_together_share_the_pages_of_the_past():
    log, seen = Log(5 * events.PAGE + 7), [[] for _ in range(100)]
    of = Feeds(log.read, POLL_SECONDS)
    log.end()
    async with asyncio.TaskGroup() as streams:
        for one in seen:
            streams.create_task(stream(of, log.seq, 0, one))
    assert all(one == list(range(1, log.seq + 1)) for one in seen)
    assert log.reads <= 6 + 1  # the pages, and the feed's look at the end


@in_event_loop
async def test_streams_that_begin_anywhere_and_read_at_any_speed_get_everything_once_and_in_order():
    dice, log = random.Random(0), Log(2 * events.PAGE)
    of = Feeds(log.read, POLL_SECONDS)
    begins, seen = [dice.randrange(log.seq) for _ in range(30)], [[] for _ in range(30)]
    async with asyncio.TaskGroup() as streams:
        for after, one in zip(begins, seen, strict=True):
            patience = dice.choice([0, 0, 5, 200])
            streams.create_task(stream(of, log.seq, after, one, pause=lambda most=patience: dice.randint(0, most)))
        for _ in range(300):
            log.append(dice.randint(1, 20), size=dice.choice([10, 10_000]))  # more than the tail keeps
            of.notice(TRIAL)
            for _ in range(dice.randint(0, 5)):
                await asyncio.sleep(0)
        log.end()
        of.notice(TRIAL)
    assert all(one == list(range(after + 1, log.seq + 1)) for after, one in zip(begins, seen, strict=True))


@in_event_loop
async def test_a_stream_that_begins_after_a_rollback_gets_no_step_that_was_rolled_back():
    log, early, late = Log(10), [], []
    of = Feeds(log.read, POLL_SECONDS)
    async with asyncio.TaskGroup() as streams:
        streams.create_task(stream(of, log.seq, 0, early))
        log.append(5)
        of.notice(TRIAL)
        await until(lambda: len(early) == 15)
        log.roll_back_to(8)  # steps 9 to 15 are gone, and event 16 says so
        of.notice(TRIAL)
        await until(lambda: early[-1] == 16)
        streams.create_task(stream(of, log.seq, 0, late))
        await until(lambda: len(late) == 9)
        log.append(2)
        log.end()
        of.notice(TRIAL)
    assert early == list(range(1, 19))
    assert late == [*range(1, 9), 16, 17, 18]


@in_event_loop
async def test_streams_wait_for_a_database_that_does_not_answer():
    log, seen = Log(3), []
    of = Feeds(log.read, poll_seconds=0.01)
    log.is_away = True
    async with asyncio.TaskGroup() as streams:
        streams.create_task(stream(of, log.seq, log.seq, seen))
        log.append()
        of.notice(TRIAL)
        await until(lambda: log.reads > 3)
        log.is_away = False
        await until(lambda: seen == [4])
        log.end()


@in_event_loop
async def test_a_trial_that_is_extended_after_its_end_is_followed_again():
    log, first, second = Log(3), [], []
    of = Feeds(log.read, POLL_SECONDS)
    log.end()
    async with asyncio.TaskGroup() as streams:
        waiting = of.subscribe(TRIAL, log.seq)  # a stream that is slow to notice the end
        with waiting:
            await streams.create_task(stream(of, log.seq, 0, first))
            log.has_ended = False
            streams.create_task(stream(of, log.seq, log.seq, second))
            await until(lambda: log.reads >= 3)
            log.append()
            of.notice(TRIAL)
            await until(lambda: second == [4])
            log.end()
            of.notice(TRIAL)
    assert (first, second) == ([1, 2, 3], [4])


@in_event_loop
async def test_a_trial_without_streams_is_not_read():
    log, seen = Log(3), []
    of = Feeds(log.read, poll_seconds=0.001)
    one = asyncio.create_task(stream(of, log.seq, 0, seen))
    await until(lambda: len(seen) == 3 and log.reads > 5)
    one.cancel()
    await asyncio.wait([one])
    reads = log.reads
    of.notice(TRIAL)
    await asyncio.sleep(0.05)
    assert log.reads <= reads + 1  # one may have begun
