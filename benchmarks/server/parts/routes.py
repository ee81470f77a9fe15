"""The routes that dashboards and clients use most, at a concurrency of 1, 8 and 32, on a filled database.

Steps are read in pages, as the dashboard does, until the last one. "CPU" is the server's processor time of one such
read. Sizes are those of the bodies as sent.
"""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic
from uuid import UUID

from sqlalchemy import text

from benchmarks.rows import Row
from benchmarks.server import figures, filling
from benchmarks.server.load import Answer, Client, Line, Operation, getting, recovery, repeatedly
from benchmarks.server.recorder import Recorder
from benchmarks.server.resources import memory, processor_seconds
from benchmarks.server.target import Target
from nestor.schemas import State

CONCURRENCY, QUICK_CONCURRENCY = (1, 8, 32), (1, 8)
SECONDS, QUICK_SECONDS = 1.5, 0.05  # of one cell of the table; requests that are running then are waited for
LIMIT = 30.0  # seconds of one read of steps
DASHBOARD = (
    "number,train_loss,val_loss,held_out_loss,test_loss,hypergradient_norm,inner_gradient_norm,residual,outcome,value,"
    "metrics,val_metrics"
)
PAGE = 10_000  # steps
THINNED = 1_000  # points
NUMBERS = re.compile(rb'"number":\s*\[([^\]]*)\]')
GZIPPED = {"Accept-Encoding": "gzip"}
GZIP = 16 + zlib.MAX_WBITS  # zlib's name of gzip's format


@dataclass(frozen=True)
class Sizes:
    """What the database holds, of one user."""

    studies: int
    trials: int
    steps: tuple[int, int, int]
    snapshots: tuple[int, int]


FULL = Sizes(200, 1_000, (10**2, 10**4, 10**5), (10**6, 10**7))
QUICK = Sizes(10, 20, (10, 100, 1_000), (10**4, 10**5))


@dataclass(frozen=True)
class Filled:
    """Where that is found: paths of the study and of trials, by their size."""

    client: Client
    study: str
    steps: dict[int, str]
    last_event: int  # of the longest trial
    snapshots: dict[int, str]


def rows(target: Target, *, quick: bool) -> Iterator[Row]:
    sizes = QUICK if quick else FULL
    filled = _fill(target, sizes)
    for name, operation in asyncio.run(_operations(filled, thins="max_points" in _parameters(target))).items():
        yield _row(target, filled.client, name, operation, quick=quick)


def _fill(target: Target, sizes: Sizes) -> Filled:
    user = target.user()
    study, steps, snapshots = UUID(user.study), dict[int, str](), dict[int, str]()
    for size in sizes.snapshots:
        trial = Recorder(target.sessions, user.client.token, user.study)
        trial.snapshot(size)
        trial.finish()
        snapshots[size] = trial.path
    for n in sizes.steps:
        trial = Recorder(target.sessions, user.client.token, user.study)
        trial.fill(n)
        trial.finish()
        steps[n] = trial.path
    with target.sessions.begin() as session:
        filling.studies(session, study, sizes.studies)
        filling.trials(session, trial.id, sizes.trials, study=study, state=State.complete, first=len(steps) + 2)
        session.execute(text("ANALYZE"))
    return Filled(user.client, f"/studies/{study}", steps, trial.last(), snapshots)


def _parameters(target: Target) -> set[str]:
    """The parameters of the route of steps."""
    with urllib.request.urlopen(f"{target.servers[0].url}/openapi.json", timeout=60) as answer:
        routes = json.load(answer)["paths"]
    (path,) = [path for path in routes if path.endswith("/trials/{trial_id}/steps")]
    return {parameter["name"] for parameter in routes[path]["get"].get("parameters", ())}


async def _operations(filled: Filled, *, thins: bool) -> dict[str, Operation]:
    few, many, most = filled.steps
    trial, tensor = filled.steps[few], f"{filled.snapshots[max(filled.snapshots)]}/hyperparameters/weights"
    steps = lambda n, **given: _steps(f"{filled.steps[n]}/steps?limit={PAGE}", n, **given)
    page = f"{filled.steps[many]}/steps?limit={PAGE}&columns={DASHBOARD}"
    again = lambda path: _again(filled.client, path)
    found = {
        "trial": getting(trial),
        "trial, 304": await again(trial),
        "studies, limit=200": getting("/studies?limit=200"),
        "trials, limit=100": getting(f"{filled.study}/trials?limit=100"),
        "trials, limit=1000": getting(f"{filled.study}/trials?limit=1000"),
        "trials, limit=1000, gzip": getting(f"{filled.study}/trials?limit=1000", GZIPPED),
        f"steps, {few:,}, dashboard": steps(few, columns=DASHBOARD),
        f"steps, {many:,}, dashboard": steps(many, columns=DASHBOARD),
        f"steps, {many:,}, dashboard, gzip": steps(many, columns=DASHBOARD, gzip=True),
        f"steps, {many:,}, dashboard, 304": await again(page),
        f"steps, {many:,}, all columns": steps(many),
        f"steps, {most:,}, dashboard": steps(most, columns=DASHBOARD),
    }
    if thins:
        thinned = lambda n: getting(f"{filled.steps[n]}/steps?columns={DASHBOARD}&max_points={THINNED}", GZIPPED)
        found |= {f"steps, {n:,}, max_points={THINNED}, gzip": thinned(n) for n in (many, most)}
    summary = lambda n: f"{filled.steps[n]}/hyperparameters/decay/summary?max_points={THINNED}"
    found |= {f"summary, {n:,}, max_points={THINNED}, gzip": getting(summary(n), GZIPPED) for n in (many, most)}
    events = f"{filled.steps[most]}/events?after={filled.last_event - 100}"
    found[f"events, the last 100 of {most:,}"] = getting(events, {"Accept": "application/json"})
    for size, path in filled.snapshots.items():
        found[f"snapshot of {size:,}"] = getting(f"{path}/hyperparameters.safetensors")
    found[f"tensor of {size:,}"] = getting(tensor)
    found[f"tensor of {size:,}, 304"] = await again(tensor)
    return found


async def _again(client: Client, path: str) -> Operation:
    """The GET of a client that has the newest version."""
    line = client.line()
    first = await line.ask(path)
    line.close()
    return getting(path, {"If-None-Match": first.headers["etag"]})


def _steps(path: str, n: int, *, columns: str | None = None, gzip: bool = False) -> Operation:
    """All `n` steps, page by page."""
    if columns is not None:
        path += f"&columns={columns}"
    headers = GZIPPED if gzip else {}

    async def read(line: Line) -> Answer:
        began, size, last = monotonic(), 0, 0
        while True:
            answer = await line.ask(f"{path}&after={last}", headers, keep=True, limit=LIMIT - (monotonic() - began))
            size += answer.size
            if answer.status == 200:
                body = answer.body
                if answer.headers.get("content-encoding") == "gzip":
                    body = zlib.decompress(body, GZIP)
                numbers = NUMBERS.search(body)
                assert numbers is not None
                last = int(numbers[1].rpartition(b",")[2])
            if answer.status != 200 or last >= n:
                return Answer(answer.status, monotonic() - began, size)

    return read


def _row(target: Target, client: Client, name: str, operation: Operation, *, quick: bool) -> Row:
    row: Row = {"case": name}
    failed, seconds = 0, QUICK_SECONDS if quick else SECONDS
    for concurrency in QUICK_CONCURRENCY if quick else CONCURRENCY:
        used, began = processor_seconds(target.groups["server"]), monotonic()
        answers = asyncio.run(repeatedly(client, operation, concurrency=concurrency, seconds=seconds))
        took, used = monotonic() - began, processor_seconds(target.groups["server"]) - used
        times = figures.times(answers)
        failed += len(answers) - len(times)
        found = figures.quantiles(times)
        row[f"c={concurrency}: a second"] = len(times) / took
        row |= {f"c={concurrency}: {column}": found.get(column) for column in ("p50, ms", "p95, ms")}
        if concurrency == 1:
            row |= {"CPU, ms": 1_000 * used / len(answers), "KB": max(answer.size for answer in answers) / 1e3}
    if failed:  # the server may still work for clients that have left
        asyncio.run(recovery(client, "/studies"))
    return row | {"failed": failed, "server MB": memory(target.groups["server"], shared=True)}
