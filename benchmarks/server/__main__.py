"""Load the service with many users: `python -m benchmarks.server [--only PART] [--quick] [--json FILE]`.

Servers, database and worker are processes on this machine. This process is the load. The recorder of steps and the
observer, which asks for one trial all the time, have processes of their own. Each part has a new database and new
servers, unless `--quick` makes it small. All parts together take some twenty minutes.

    bursts     n connections that are opened at once, with one GET each
    streams    n readers of one trial's events
    slow       clients that do not read, or do not send
    routes     the routes that are used most
    trials     200 small trials of two users
    claims     claims from a long queue
    uploads    a gigabyte, and the memory of its client
    faults     restarts under streams, floods, and clients that leave
    soak       eight minutes of a usual load

"Others" are the GETs of another user on a connection of its own, twenty a second at most.
"""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from benchmarks.rows import Row, collected, shared_options
from benchmarks.server.parts import bursts, claims, faults, routes, slow, soak, streams, trials, uploads
from benchmarks.server.table import table
from benchmarks.server.target import Target, running
from examples.provenance import caption
from nestor_server.embedded.stack import stop_on_signals
from nestor_server.settings import Settings
from testbed.services import Services, running_services


class Rows(Protocol):
    """Yields the rows of a part as they are measured."""

    def __call__(self, target: Target, *, quick: bool) -> Iterator[Row]: ...


@dataclass(frozen=True)
class Part:
    """A part; `seconds` after which no further row of it is begun."""

    rows: Rows
    seconds: float
    with_worker: bool = False


PARTS = {
    "bursts": Part(bursts.rows, 300),
    "streams": Part(streams.rows, 480),
    "slow": Part(slow.rows, 120),
    "routes": Part(routes.rows, 420),
    "trials": Part(trials.rows, 330, with_worker=True),
    "claims": Part(claims.rows, 180),
    "uploads": Part(uploads.rows, 240, with_worker=True),
    "faults": Part(faults.rows, 240),
    "soak": Part(soak.rows, 500, with_worker=True),
}


def measured(names: list[str], services: Services, *, servers: int, workers: int, quick: bool) -> Iterator[Row]:
    """The rows of these parts, one part after another."""
    new = lambda with_worker: running(services, n_servers=servers, workers=workers, with_worker=with_worker)
    with new(any(PARTS[name].with_worker for name in names)) if quick else nullcontext() as shared:
        for name in names:
            part = PARTS[name]
            target = nullcontext(shared) if shared else new(part.with_worker)
            for row in _rows(part, target, quick=quick):
                yield {"part": name, "processes": servers * workers, **row}


def _rows(part: Part, target: AbstractContextManager[Target], *, quick: bool) -> Iterator[Row]:
    """The rows of a part. If it fails or takes too long, the last one has the reason, and other parts can follow."""
    began = time.monotonic()
    try:
        with target as given:
            for row in part.rows(given, quick=quick):
                yield row
                if row.get("recovery, s", 0.0) is None:  # the next row would show what this one has left behind
                    given.restart()
                if time.monotonic() - began > part.seconds:
                    yield {"case": "further rows", "error": f"none is begun after {part.seconds:.0f} s"}
                    return
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        yield {"case": "the rest", "error": reason[:300]}


def main() -> None:
    parser = shared_options(__doc__, quick="small sizes on one server, within half a minute")
    parser.add_argument("--only", action="append", choices=PARTS, help="only this part; repeat it for several")
    parser.add_argument("--servers", type=int, default=1, help="servers on one database; connections alternate")
    parser.add_argument("--workers", type=int, default=1, help="processes of each server")
    options = parser.parse_args()
    if options.workers > 1 and "server_workers" not in Settings.model_fields:
        parser.error("this version has one process for each server: use --servers")
    stop_on_signals()  # by an exception, so that no process outlives this one
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a thousand streams are as many open files
    gc.freeze()  # what was imported is not looked at again while the load runs
    stamp, began = caption("benchmarks.server"), time.monotonic()  # before the run: the commit may change during it
    with running_services() as services:
        names = [name for name in PARTS if not options.only or name in options.only]
        found = measured(names, services, servers=options.servers, workers=options.workers, quick=options.quick)
        rows = collected(found, options.json)
    print(f"{stamp}\n\n{table(rows)}")
    print(f"all parts: {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
