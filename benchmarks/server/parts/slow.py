"""Clients that ask for much and read nothing, or announce a body and do not send it. They must cost others nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from benchmarks.rows import Row
from benchmarks.server import figures
from benchmarks.server.events import Stalled
from benchmarks.server.load import Client, Connection, recovery
from benchmarks.server.recorder import Recorder
from benchmarks.server.target import Target

CLIENTS, QUICK_CLIENTS = 60, 10
NUMBERS, QUICK_NUMBERS = 10**7, 10**6  # of the snapshot, four bytes each
SECONDS, QUICK_SECONDS = 15.0, 2.0  # in which the clients do nothing


def rows(target: Target, *, quick: bool) -> Iterator[Row]:
    n, numbers = (QUICK_CLIENTS, QUICK_NUMBERS) if quick else (CLIENTS, NUMBERS)
    seconds = QUICK_SECONDS if quick else SECONDS
    user = target.user()
    trial = Recorder(target.sessions, user.client.token, user.study)
    trial.snapshot(numbers)
    trial.finish()
    snapshot = user.client.message(f"{trial.path}/hyperparameters.safetensors")
    upload = user.client.message("/blobs", method="POST", body=b" " * 1_000)
    cases: list[tuple[str, bytes, int]] = [
        ("no other client", b"", 0),
        (f"{n} readers of {4 * numbers // 10**6} MB that do not read", snapshot, n),
        (f"{n} senders of a body that do not send it", upload[:-1_000], n),
    ]
    for name, message, clients in cases:
        row = asyncio.run(_hold(target, user.client, message, clients, seconds))
        yield {"case": name, **row, "recovery, s": asyncio.run(recovery(user.client, trial.path))}


async def _hold(target: Target, client: Client, message: bytes, n: int, seconds: float) -> Row:
    """Let `n` connections send the message, and see what others get meanwhile."""
    kind: Callable[[], Connection] = Stalled
    idle = [await client.connect(kind) for _ in range(n)]
    target.observe()
    for connection in idle:
        connection.transport.write(message)
    await asyncio.sleep(seconds)
    row = figures.observed(await asyncio.to_thread(target.observed))
    for connection in idle:
        connection.close()
    return row
