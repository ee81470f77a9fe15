"""The gate in front of the database: how many work, who waits, whose turn it is, and who is refused."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Hashable

import pytest

from nestor.errors import ServerBusy
from nestor_server.http.admission import ClientGone, Gate
from tests.server.test_feeds import in_event_loop, until


class Work:
    """Calls that end when the test says so, in the order in which they began."""

    def __init__(self, *, threads: int = 1, line: int = 100) -> None:
        self.gate = Gate("test", threads=threads, line=line)
        self.began: list[str] = []
        self.may_end = threading.Semaphore(0)

    def call(self, name: str, caller: Hashable = None, is_gone: Callable[[], bool] | None = None) -> asyncio.Task[str]:
        def work() -> str:
            self.began.append(name)
            assert self.may_end.acquire(timeout=60)
            return name

        return asyncio.create_task(self.gate.run(work, caller=caller, is_gone=is_gone))

    async def end(self, *tasks: asyncio.Task[str]) -> list[str]:
        """What the calls return, after all may end."""
        for _ in tasks:
            self.may_end.release()
        results = await asyncio.gather(*tasks)
        self.gate.close()
        return results


@in_event_loop
async def test_no_more_calls_than_threads_work_at_once():
    work = Work(threads=3)
    tasks = [work.call(str(n), caller=n % 2) for n in range(10)]
    await until(lambda: len(work.began) == 3)
    for n in range(4, 11):
        work.may_end.release()
        await until(lambda n=n: len(work.began) == n)
    assert await work.end(*tasks) == [str(n) for n in range(10)]


@in_event_loop
async def test_calls_of_one_caller_are_answered_in_order():
    work = Work()
    await work.end(*[work.call(str(n)) for n in range(20)])
    assert work.began == [str(n) for n in range(20)]


@in_event_loop
async def test_a_caller_with_many_calls_delays_another_by_one():
    work = Work()
    tasks = [work.call(f"many {n}", "many") for n in range(50)]
    await until(lambda: len(work.began) == 1)
    tasks += [work.call("few 1", "few"), work.call("few 2", "few")]
    await work.end(*tasks)
    assert work.began[:5] == ["many 0", "many 1", "few 1", "many 2", "few 2"]


@in_event_loop
async def test_one_caller_has_at_most_three_quarters_of_the_threads():
    """Otherwise long calls of one caller keep all threads, and others wait for the first that ends."""
    work = Work(threads=8)
    many = [work.call(f"many {n}", "many") for n in range(20)]
    await until(lambda: len(work.began) == 6)
    few = [work.call(f"few {n}", "few") for n in range(2)]
    await until(lambda: len(work.began) == 8)
    assert work.began[6:] == ["few 0", "few 1"]
    more = work.call("more", "more")
    for n in range(9, 12):  # whichever ends, the next caller who may have one more begins
        work.may_end.release()
        await until(lambda n=n: len(work.began) == n)
    await work.end(*many, *few, more)
    assert len(work.began) == 23


@in_event_loop
async def test_a_full_line_refuses_the_next_call():
    work = Work(line=2)
    tasks = [work.call(str(n)) for n in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(ServerBusy):
        await work.call("one too many")
    assert await work.end(*tasks) == ["0", "1", "2"]


@in_event_loop
async def test_a_full_line_refuses_the_caller_who_fills_it():
    work = Work(line=3)
    tasks = [work.call(f"many {n}", "many") for n in range(4)]
    await asyncio.sleep(0)
    few = work.call("few", "few")
    with pytest.raises(ServerBusy):
        await tasks.pop()
    assert await work.end(*tasks, few) == ["many 0", "many 1", "many 2", "few"]


@in_event_loop
async def test_a_call_whose_client_is_gone_does_nothing():
    work = Work()
    first = work.call("first")
    gone, last = work.call("gone", is_gone=lambda: True), work.call("last")
    await work.end(first, last)
    with pytest.raises(ClientGone):
        await gone
    assert work.began == ["first", "last"]


@in_event_loop
async def test_calls_that_are_cancelled_at_any_moment_leave_no_gap():
    """Waiting, when the turn comes, and at work. Afterwards as many work at once as before."""
    dice, gate = random.Random(0), Gate("test", threads=2, line=100)
    for _ in range(200):
        tasks = [asyncio.create_task(gate.run(lambda: None, caller=dice.randrange(3))) for _ in range(8)]
        for task in dice.sample(tasks, 5):
            for _ in range(dice.randrange(3)):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait(tasks)
    both = threading.Barrier(2)
    await asyncio.gather(*(gate.run(lambda: both.wait(60)) for _ in range(2)))
    gate.close()


@in_event_loop
async def test_an_error_gives_the_place_to_the_next():
    gate = Gate("test", threads=1, line=10)

    def fails() -> None:
        raise ValueError("no")

    results = await asyncio.gather(*(gate.run(fails) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [ValueError] * 5
    assert await gate.run(lambda: 1) == 1
    gate.close()
