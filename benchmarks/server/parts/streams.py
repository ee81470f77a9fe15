"""Event streams: n readers of one trial that records five steps a second, every tenth of them cut and resumed.

The delay of an event is the time from the call that commits it until a reader has it, of events after its stream began.
The targets: nothing refused, missed, doubled or out of order, and a 95th percentile of the delay below 150 ms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np

from benchmarks.rows import Row
from benchmarks.server import figures
from benchmarks.server.events import Reader, Stalled
from benchmarks.server.load import recovery
from benchmarks.server.target import Target, User

RATE = 5  # steps a second
GENTLY = 50  # streams that are opened in a second
OPEN_LIMIT, END_LIMIT, RECOVERY_LIMIT = 30.0, 20.0, 30.0  # seconds until a state is given up
HOLD_SECONDS, QUICK_HOLD_SECONDS = 16.0, 1.0
CUT = 10  # one of so many readers
BACKLOG, QUICK_BACKLOG = (
    10_000,
    500,
)  # steps from before the readers: connections that do not read stop in the midst of them


@dataclass(frozen=True)
class Case:
    """Readers of one trial, opened `gently` or at once, beside `stalled` connections that do not read."""

    readers: int
    gently: bool
    stalled: int = 0
    backlog: int = 0  # steps that are recorded before; the readers have seen them

    @property
    def name(self) -> str:
        """How its row is called."""
        beside = f", {self.stalled} more do not read" if self.stalled else ""
        return f"{self.readers:,} {'gently' if self.gently else 'at once'}{beside}"


GENTLE, AT_ONCE = (50, 200, 1_000), (50, 200, 500, 1_000)
CASES = (
    *(Case(n, gently=True) for n in GENTLE),
    *(Case(n, gently=False) for n in AT_ONCE),
    Case(1_000, False, 50, BACKLOG),
)
QUICK_CASES = (Case(20, gently=True), Case(20, gently=False, stalled=5, backlog=QUICK_BACKLOG))

Midway = Callable[[list[Reader]], Awaitable[None]]


def rows(target: Target, *, quick: bool) -> Iterator[Row]:
    for case in QUICK_CASES if quick else CASES:
        yield measure(target, case, _cut_some, QUICK_HOLD_SECONDS if quick else HOLD_SECONDS)


def measure(target: Target, case: Case, midway: Midway, seconds: float) -> Row:
    """The row of a case, with something that happens to its readers half-way in the `seconds` when all are open."""
    run = Run(target, case, target.user())
    row = asyncio.run(run.measure(midway, seconds))
    return row | {"recovery, s": asyncio.run(recovery(run.user.client, "/studies", limit=RECOVERY_LIMIT))}


async def _cut_some(readers: list[Reader]) -> None:
    """Every tenth reader resumes from the last event that it saw."""
    for reader in readers[::CUT]:
        reader.cut()


@dataclass
class Run:
    """One case, from the first step of its trial to the last event of its readers."""

    target: Target
    case: Case
    user: User

    async def measure(self, midway: Midway, seconds: float) -> Row:
        """Open the readers, let them read for `seconds`, and end the trial."""
        client, recorder = self.user.client, self.target.recorder
        user = {"token": client.token, "study": self.user.study}
        trial = recorder.ask(rate=RATE, backlog=self.case.backlog, **user)
        self.path, last = f"{trial['path']}/events", trial["last"] if self.case.backlog else 0
        self.target.observe()
        stalled = await self._stalled()
        self.readers = [Reader(client, self.path, last) for _ in range(self.case.readers)]
        began = monotonic()
        running = []
        for reader in self.readers:
            running.append(asyncio.create_task(reader.run()))
            if self.case.gently:
                await asyncio.sleep(1 / GENTLY)
        await _until(lambda: all(reader.first_opened for reader in self.readers), OPEN_LIMIT)
        await asyncio.sleep(seconds / 2)
        changed = monotonic()
        await midway(self.readers)
        await asyncio.sleep(seconds / 2)
        # In a thread: the readers go on reading while the recorder answers.
        recorded = await asyncio.to_thread(recorder.ask, finish=True)
        await _until(lambda: all(reader.ended for reader in self.readers), END_LIMIT)
        row = figures.observed(await asyncio.to_thread(self.target.observed))
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for one in [*self.readers, *stalled]:
            one.close()
        return self._row(began, changed, recorded) | row

    async def _stalled(self) -> list[Stalled]:
        found = []
        for _ in range(self.case.stalled):
            connection = await self.user.client.connect(Stalled)
            connection.transport.write(self.user.client.message(self.path, {"Accept": "text/event-stream"}))
            found.append(connection)
        return found

    def _row(self, began: float, changed: float, recorded: dict[str, Any]) -> Row:
        commits = {int(seq): time for seq, time in recorded["commits"].items()}
        readers, last = self.readers, recorded["last"]
        opened = [reader.first_opened for reader in readers if reader.first_opened is not None]
        resumed = [
            min(after) - changed
            for reader in readers
            if (after := [time for time, since in zip(reader.times, reader.since, strict=True) if since > changed])
        ]
        return {
            "case": self.case.name,
            "open": len(opened),
            "after, s": max(opened, default=began) - began,
            **figures.quantiles(_delays(readers, commits), "delay"),
            "missed": sum(len(reader.gaps) for reader in readers),
            "doubled": sum(reader.doubled for reader in readers),
            "out of order": sum(reader.out_of_order for reader in readers),
            "not delivered": sum(last - reader.last for reader in readers),
            "refused": sum(reader.refused for reader in readers),
            "broken": sum(reader.broken for reader in readers),
            "resumed": len(resumed),
            "last one after, s": max(resumed, default=None),
        }


def _delays(readers: list[Reader], commits: dict[int, float]) -> np.ndarray:
    """Seconds from the commit to the reader, of the events that were committed after the reader's stream began."""
    ids = np.concatenate([np.asarray(reader.ids) for reader in readers])
    times = np.concatenate([np.asarray(reader.times) for reader in readers])
    since = np.concatenate([np.asarray(reader.since) for reader in readers])
    committed = np.full(max(ids.max(initial=0), max(commits, default=0)) + 1, np.nan)
    committed[list(commits)] = list(commits.values())
    live = committed[ids] > since  # false for events without a step, such as changes of the state
    return (times - committed[ids])[live]


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for a condition, for at most `seconds`."""
    end = monotonic() + seconds
    while not condition() and monotonic() < end:
        await asyncio.sleep(0.05)
