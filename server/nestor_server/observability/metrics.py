"""Metrics of the server's processes: requests, event streams and database connections.

Several processes that share a port share their metrics in a directory, so that each can answer a scrape for all.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, values
from prometheus_client.multiprocess import MultiProcessCollector

from nestor_server.http.admission import Gate

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"  # of methods and routes that do not exist, which a client can make up
GAUGES = "livesum"  # the sum over the processes that run
SAMPLE_SECONDS = 1.0
DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client

prometheus_client.disable_created_metrics()


@final
class Metrics:
    """The metrics of this process. If it has a place among others, `collect` returns those of all."""

    def __init__(self) -> None:
        self._own = own = CollectorRegistry()
        self._shared = os.environ.get(DIRECTORY)
        self._sampled: list[Callable[[], None]] = []

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"nestor_{name}", text, labels, registry=own)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"nestor_{name}", text, labels, registry=own, multiprocess_mode=GAUGES)

        self._requests = counter(
            "http_requests_total", "Answers by route and status; 499: the client left.", "method", "route", "status"
        )
        self._seconds = Histogram(
            "nestor_http_request_seconds",
            "Time from the head of a request until its answer begins.",
            ("method", "route"),
            buckets=BUCKETS,
            registry=own,
        )
        self.in_flight = gauge("http_requests_in_flight", "Requests, event streams included, that are being answered.")
        self._waiting = gauge("gate_waiting", "Calls that wait for a thread and its database connection.", "gate")
        self._working = gauge("gate_working", "Calls that have a thread and its database connection.", "gate")
        self._refused = counter("gate_refused_total", "Calls that were refused because too many waited.", "gate")
        self._streams = gauge("event_streams", "Open event streams.")
        self._in_use = gauge("database_connections_in_use", "Database connections in use.", "pool")
        self._maximum = gauge("database_connections_max", "Database connections that may be opened.", "pool")
        gauge("server_processes", "Processes that answer requests at this address.").set(1)

    def answered(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """A response with this status began. `route` is its template; None if no route takes the request."""
        method, route = method if method in METHODS else OTHER, route or OTHER
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def watch_gate(self, gate: Gate) -> None:
        """Show a gate, and count what it refuses."""
        self._sample(self._waiting.labels(gate.name), lambda: gate.waiting)
        self._sample(self._working.labels(gate.name), lambda: gate.working)
        gate.on_refusal = self._refused.labels(gate.name).inc

    def watch_pool(self, name: str, in_use: Callable[[], int], maximum: int) -> None:
        """Show a pool of database connections."""
        self._sample(self._in_use.labels(name), in_use)
        self._maximum.labels(name).set(maximum)

    def watch_streams(self, n_open: Callable[[], int]) -> None:
        """Show the event streams."""
        self._sample(self._streams, n_open)

    async def keep_sampling(self) -> None:
        """Sample every second, for scrapes that other processes answer, until this task is cancelled."""
        while self._shared is not None:
            self.sample()
            await asyncio.sleep(SAMPLE_SECONDS)

    def sample(self) -> None:
        """Read now what is shown."""
        for read in self._sampled:
            read()

    def collect(self) -> Iterable[Metric]:
        """All metrics of this process, or of all that share them."""
        if self._shared is None:
            return self._own.collect()
        _forget_dead(Path(self._shared))
        return MultiProcessCollector(None, self._shared).collect()  # pyright: ignore[reportUnknownVariableType]

    def _sample(self, gauge: Gauge, read: Callable[[], int]) -> None:
        self._sampled.append(lambda: gauge.set(read()))


def share(directory: str) -> None:
    """Share the metrics that this process makes from now on with those who share the same directory.

    A process takes the first free place. What its predecessor counted there is counted on, and its gauges are removed.
    """
    place = _take_place(Path(directory))
    values.ValueClass = values.MultiProcessValue(lambda: place)  # pyright: ignore[reportUnknownMemberType]


_places: list[IO[bytes]] = []  # open while this process runs: the system frees its place when it ends


def _take_place(directory: Path) -> int:
    number = 0
    while (place := _lock(directory / f"{number}.lock")) is None:
        number += 1
    _places.append(place)
    _remove_gauges(directory, number)
    return number


def _forget_dead(directory: Path) -> None:
    """Remove the gauges of processes that ended."""
    for path in directory.glob("*.lock"):
        if (place := _lock(path)) is not None:
            with place:
                _remove_gauges(directory, int(path.stem))


def _remove_gauges(directory: Path, place: int) -> None:
    """Remove the file of a process that ended, whose name prometheus_client has chosen."""
    (directory / f"gauge_{GAUGES}_{place}.db").unlink(missing_ok=True)


def _lock(path: Path) -> IO[bytes] | None:
    """The file, locked; None if another process has locked it, or this one."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
