"""Five minutes of a usual load: dashboards that poll, readers of event streams, and small trials one after another.

Dashboards poll for half as long again without new trials, whose list then stays the same. "A minute" is the slope of
the memory of each group of processes, in MB, without the first fifth of the time. Pages that several processes of a
group share count once.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterator
from time import monotonic
from typing import Any

from benchmarks.rows import Row
from benchmarks.server import figures
from benchmarks.server.events import Reader
from benchmarks.server.load import Answer, Line
from benchmarks.server.parts.routes import DASHBOARD, PAGE
from benchmarks.server.target import Target, User
from testbed.api import spec_of

SECONDS, QUICK_SECONDS = 300.0, 3.0
DASHBOARDS, QUICK_DASHBOARDS = 20, 3
STREAMS = 20  # of the trial that runs when they begin; each goes on with the next one
STEPS, WAITING = 50, 3  # of each trial; trials that are kept waiting
LISTS_EVERY, TRIAL_EVERY = 10.0, 2.0  # seconds, as the dashboard has them
MEMORY_EVERY = 5.0


def rows(target: Target, *, quick: bool) -> Iterator[Row]:
    user = target.user()
    seconds, dashboards = (QUICK_SECONDS, QUICK_DASHBOARDS) if quick else (SECONDS, DASHBOARDS)
    log = target.servers[0].log
    logged = log.stat().st_size
    target.observe(memory_every=min(MEMORY_EVERY, seconds / 10))
    answers, trials, streams = asyncio.run(_load(user, dashboards, seconds))
    report = target.observed()
    logged = log.stat().st_size - logged
    for name, found in answers.items():
        row: Row = {"case": name, "a second": len(found) / seconds}
        yield row | figures.quantiles(figures.times(found)) | figures.counts(found)
    broken = sum(reader.refused + reader.broken for reader in streams)
    wrong = sum(len(reader.gaps) + reader.doubled + reader.out_of_order for reader in streams)
    yield {
        "part": "soak, in all",
        "case": f"{seconds:.0f} s, {dashboards} dashboards",
        "trials a minute": 60 * trials / seconds,
        "streams read": len(streams),
        "refused or broken": broken,
        "events missed, doubled or out of order": wrong,
        "connections": report["connections"],
        "log, KB a minute": 60 * logged / seconds / 1e3,
    }
    yield from _processes(report)
    target.observe(memory_every=min(MEMORY_EVERY, seconds / 10))
    asyncio.run(_poll(user, dashboards, monotonic() + seconds / 2, defaultdict(list)))
    yield from _processes(target.observed(), ", no more trials")


def _processes(report: dict[str, Any], when: str = "") -> Iterator[Row]:
    for group, cores in report["cores"].items():
        points = [(time / 60, groups[group]) for time, groups in report["memory"]]
        yield {
            "part": "soak, processes",
            "case": group + when,
            "cores": cores,
            "MB at the start": points[0][1],
            "MB at the end": points[-1][1],
            "MB a minute": figures.slope(points),
        }


async def _load(user: User, dashboards: int, seconds: float) -> tuple[dict[str, list[Answer]], int, list[Reader]]:
    """The answers of each route, the number of trials that were completed, and the streams that were read."""
    answers: defaultdict[str, list[Answer]] = defaultdict(list)
    streams: list[Reader] = []
    end = monotonic() + seconds
    submitting = asyncio.create_task(_submit(user, end))
    reading = [_read(user, streams, end) for _ in range(STREAMS)]
    await asyncio.gather(_poll(user, dashboards, end, answers), *reading)
    return answers, await submitting, streams


async def _poll(user: User, dashboards: int, end: float, answers: defaultdict[str, list[Answer]]) -> None:
    """Let dashboards poll until `end`, and add their answers."""
    await asyncio.gather(*(Dashboard(user, answers).poll(i / dashboards, end) for i in range(dashboards)))


async def _submit(user: User, end: float) -> int:
    """Keep some trials waiting, and return how many were completed."""
    line = user.client.line()
    while True:
        study = await line.ask(f"/studies/{user.study}", keep=True)
        counts = json.loads(study.body)["trial_counts"] if study.status == 200 else {}
        if monotonic() >= end:
            line.close()
            return counts.get("complete", 0)
        if study.status == 200:
            for _ in range(WAITING - counts.get("queued", 0)):
                await line.post(f"/studies/{user.study}/trials", spec_of(STEPS))
        await asyncio.sleep(1.0)


class Dashboard:
    """Polls as the page does: lists every ten seconds, the selected trial and its new steps every two."""

    def __init__(self, user: User, answers: dict[str, list[Answer]]) -> None:
        self._user, self._answers = user, answers
        self._line = user.client.line()
        self._trial, self._step = "", 0

    async def poll(self, wait: float, end: float) -> None:
        """Begin after `wait` intervals, so that dashboards do not all ask at once."""
        await asyncio.sleep(wait * TRIAL_EVERY)
        due = monotonic() + wait * LISTS_EVERY
        while monotonic() < end:
            if monotonic() >= due or not self._trial:
                due = monotonic() + LISTS_EVERY
                await self._lists()
            if self._trial:
                await self._steps()
            await asyncio.sleep(TRIAL_EVERY)
        self._line.close()

    async def _lists(self) -> None:
        await self._ask("studies", "/studies?limit=200")
        found = await self._ask("trials", f"/studies/{self._user.study}/trials?limit=1000")
        selected = _selected(found["items"]) if found else None
        if selected and selected != self._trial:
            self._trial, self._step = selected, 0

    async def _steps(self) -> None:
        trial = await self._ask("trial", f"/trials/{self._trial}")
        if trial and trial["step"] != self._step:
            path = f"/trials/{self._trial}/steps?after={self._step}&columns={DASHBOARD}&limit={PAGE}"
            found = await self._ask("steps", path)
            if found and (numbers := found["columns"]["number"]):
                self._step = numbers[-1]

    async def _ask(self, name: str, path: str) -> Any:
        answer = await self._line.ask(path, keep=True)
        self._answers[name].append(answer)
        return json.loads(answer.body) if answer.status == 200 else None


async def _read(user: User, streams: list[Reader], end: float) -> None:
    """Read the stream of one running trial after another."""
    line: Line = user.client.line()
    while (left := end - monotonic()) > 0:
        answer = await line.ask(f"/studies/{user.study}/trials?limit=1000&state=running", keep=True)
        running = json.loads(answer.body)["items"] if answer.status == 200 else []
        if running:
            reader = Reader(user.client, f"/trials/{running[-1]['id']}/events")
            streams.append(reader)
            try:
                await asyncio.wait_for(reader.run(), left)
            except TimeoutError:
                reader.close()
        await asyncio.sleep(0.5)
    line.close()


def _selected(trials: list[dict[str, Any]]) -> str | None:
    """The running trial, or the last one."""
    running = [trial["id"] for trial in trials if trial["state"] == "running"]
    return next(iter(running or [trial["id"] for trial in trials[-1:]]), None)
