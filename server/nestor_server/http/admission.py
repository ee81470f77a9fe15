"""Admission: a bounded number of requests work at once. The others wait in a bounded line, and hold nothing."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, final

from nestor.errors import ServerBusy
from nestor_server.observability import logs

T = TypeVar("T")
NOBODY = object()


class ClientGone(Exception):
    """The client closed its connection. Nothing was done."""


@final
class Gate:
    """Threads that work one call each, and the line of calls that wait for one.

    Callers take turns, so a caller with a thousand calls delays another one by one. None has more than three quarters
    of the threads, so others need not wait for long calls to end. If the line is full, the newest call of the caller
    who has most of them is refused, so that its client can come again.

    Args:
        name: of the threads, for debuggers and metrics.
        threads: calls that work at once.
        line: calls that may wait.
    """

    def __init__(self, name: str, *, threads: int, line: int) -> None:
        self.on_refusal: Callable[[], None] = lambda: None
        self.name = name
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._threads, self._line, self._waiting = threads, line, 0
        self._most = threads - threads // 4  # of one caller
        self._working: Counter[Hashable] = Counter()  # calls that have a thread
        self._turns: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()  # the first caller is next

    @property
    def waiting(self) -> int:
        """Calls that wait for a thread."""
        return self._waiting

    @property
    def working(self) -> int:
        """Calls that have a thread."""
        return self._working.total()

    async def run(
        self, work: Callable[[], T], *, caller: Hashable = None, is_gone: Callable[[], bool] | None = None
    ) -> T:
        """What `work` returns, called in a thread. It should take milliseconds and wait for no client.

        Args:
            caller: who takes turns with others.
            is_gone: asked when the turn comes. If the client is gone, `work` is not called.

        Raises:
            ServerBusy: the line is full.
            ClientGone
        """
        await self._enter(caller)
        try:
            if is_gone is not None and is_gone():
                raise ClientGone
            return await asyncio.get_running_loop().run_in_executor(self._executor, logs.in_thread(work))
        finally:
            self._leave(caller)

    def close(self) -> None:
        """End the threads that wait for work, and let those that work finish."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _enter(self, caller: Hashable) -> None:
        if self._working.total() < self._threads and self._working[caller] < self._most:
            self._working[caller] += 1
            return
        if self._waiting >= self._line:
            self._refuse_one(caller)
        turn = asyncio.get_running_loop().create_future()
        self._turns.setdefault(caller, deque()).append(turn)
        self._waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the turn came at the same moment
                self._leave(caller)
            elif turn in self._turns.get(caller, ()):
                self._turns[caller].remove(turn)
                self._forget(caller)
            raise

    def _refuse_one(self, newcomer: Hashable) -> None:
        self.on_refusal()
        most = max(self._turns, key=lambda caller: len(self._turns[caller]), default=newcomer)
        if len(self._turns.get(newcomer, ())) >= len(self._turns.get(most, ())):
            raise ServerBusy(waiting=self._waiting)
        self._turns[most].pop().set_exception(ServerBusy(waiting=self._waiting))
        self._forget(most)

    def _leave(self, caller: Hashable) -> None:
        """Give the thread of this caller's call to the first call of the next caller who may have one more."""
        self._working -= Counter([caller])
        while (following := self._next()) is not NOBODY:
            turn = self._turns[following].popleft()
            self._turns.move_to_end(following)
            self._forget(following)
            if not turn.cancelled():
                self._working[following] += 1
                turn.set_result(None)
                return

    def _next(self) -> Hashable:
        return next((caller for caller in self._turns if self._working[caller] < self._most), NOBODY)

    def _forget(self, caller: Hashable) -> None:
        """One call of this caller waits no longer."""
        self._waiting -= 1
        if not self._turns[caller]:
            del self._turns[caller]
