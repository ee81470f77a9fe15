"""Faults under load: the database or the server restarts under event streams, clients flood, and clients go away."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from time import monotonic

from sqlalchemy import text

from benchmarks.rows import Row
from benchmarks.server import figures
from benchmarks.server.events import Reader, Stalled
from benchmarks.server.load import Client, at_once, getting, recovery
from benchmarks.server.parts.streams import Case, measure
from benchmarks.server.recorder import Recorder
from benchmarks.server.resources import processor_seconds
from benchmarks.server.target import Target

STREAMS, QUICK_STREAMS = 500, 20
HOLD_SECONDS, QUICK_HOLD_SECONDS = 16.0, 2.0  # of streams, half of it before the fault
FLOODS, QUICK_FLOODS = 100, 5  # connections that send and do not read
FLOOD_SECONDS, QUICK_FLOOD_SECONDS = 10.0, 1.0
GETS = 200  # that are sent in one piece
ABANDONED, QUICK_ABANDONED = 32, 4  # readers of many steps, who leave early
STEPS, QUICK_STEPS = 10**5, 1_000
PATIENCE = 0.5  # seconds until they leave


def rows(target: Target, *, quick: bool) -> Iterator[Row]:
    case = Case(QUICK_STREAMS if quick else STREAMS, gently=False)
    seconds = QUICK_HOLD_SECONDS if quick else HOLD_SECONDS

    async def crash_the_database(readers: list[Reader]) -> None:
        await asyncio.to_thread(_crash, target)

    async def restart_the_server(readers: list[Reader]) -> None:
        await asyncio.to_thread(_restart, target)

    faults = {"the database crashes": crash_the_database, "the server restarts": restart_the_server}
    for name, fault in faults.items():
        row = measure(target, case, fault, seconds)
        yield row | {"part": "faults, streams", "case": f"{name}, {case.name}"}
    yield from _clients(target, quick=quick)


def _crash(target: Target) -> None:
    """Kill a backend. PostgreSQL then ends all others, recovers, and listens again."""
    with target.sessions() as session:
        pid = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
    os.kill(pid, signal.SIGKILL)


def _restart(target: Target) -> None:
    target.servers[0].stop()
    target.servers[0].start()


def _clients(target: Target, *, quick: bool) -> Iterator[Row]:
    user = target.user()
    trial = Recorder(target.sessions, user.client.token, user.study)
    trial.fill(QUICK_STEPS if quick else STEPS)
    trial.finish()
    floods, seconds = (QUICK_FLOODS, QUICK_FLOOD_SECONDS) if quick else (FLOODS, FLOOD_SECONDS)
    target.observe()
    asyncio.run(_flood(user.client, trial.path, floods, seconds))
    row: Row = {"case": f"{floods} connections send GETs for {seconds:.0f} s and do not read"}
    row |= figures.observed(target.observed())
    yield row | {"recovery, s": asyncio.run(recovery(user.client, trial.path))}

    readers = QUICK_ABANDONED if quick else ABANDONED
    target.observe()
    before = processor_seconds(target.groups["server"])
    asyncio.run(at_once(user.client, getting(f"{trial.path}/steps?limit=10000", limit=PATIENCE), readers))
    recovered = asyncio.run(recovery(user.client, trial.path))
    used = processor_seconds(target.groups["server"]) - before
    row = {"case": f"{readers} readers of 10,000 steps leave after {PATIENCE} s", "server CPU, s": used}
    yield row | figures.observed(target.observed()) | {"recovery, s": recovered}


async def _flood(client: Client, path: str, n: int, seconds: float) -> None:
    """Send GETs on `n` connections as long as the server takes them, and read no answer."""
    message, end = GETS * client.message(path), monotonic() + seconds

    async def flood() -> None:
        connection = await client.connect(Stalled)
        while monotonic() < end and not connection.lost:
            if connection.transport.get_write_buffer_size() < len(message):
                connection.transport.write(message)
            await asyncio.sleep(0.01)
        connection.close()

    await asyncio.gather(*(flood() for _ in range(n)), return_exceptions=True)
