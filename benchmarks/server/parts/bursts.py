"""Bursts: n connections that are opened at once, and send one GET each.

The target is that 400 are answered in three times the time of as many requests one after another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import monotonic

from benchmarks.rows import Row
from benchmarks.server import figures
from benchmarks.server.load import Client, at_once, getting, recovery
from benchmarks.server.recorder import Recorder
from benchmarks.server.target import Target

SIZES, QUICK_SIZES = (40, 60, 80, 100, 200, 400, 1_000), (10, 40)
IN_TURN, QUICK_IN_TURN = 400, 50  # requests one after another


def rows(target: Target, *, quick: bool) -> Iterator[Row]:
    user = target.user()
    trial = Recorder(target.sessions, user.client.token, user.study)
    trial.finish()
    each, row = asyncio.run(_in_turn(user.client, trial.path, QUICK_IN_TURN if quick else IN_TURN))
    yield row
    for n in QUICK_SIZES if quick else SIZES:
        target.observe()
        row = asyncio.run(_burst(user.client, trial.path, n, each))
        yield row | figures.observed(target.observed())


async def _in_turn(client: Client, path: str, n: int) -> tuple[float, Row]:
    """Seconds of one of `n` requests one after another on one connection, and the row about them."""
    line, began = client.line(), monotonic()
    await line.ask(path)
    began = monotonic()
    answers = [await line.ask(path) for _ in range(n)]
    took = monotonic() - began
    line.close()
    row: Row = {"case": f"{n} one after another", "all answered, s": took, "as against one after another": 1.0}
    return took / n, row | figures.quantiles(figures.times(answers)) | figures.counts(answers)


async def _burst(client: Client, path: str, n: int, each: float) -> Row:
    began = monotonic()
    answers = await at_once(client, getting(path), n)
    took = monotonic() - began
    recovered = await recovery(client, path)
    row: Row = {"case": f"{n:,} at once", "all answered, s": took, "as against one after another": took / (n * each)}
    row |= figures.quantiles(figures.times(answers)) | figures.counts(answers)
    return row | {"recovery, s": recovered}
