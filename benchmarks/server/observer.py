"""A helper that asks for a trial all the time while others load the server, and watches processes and database."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import psycopg

from benchmarks.server import figures, helper
from benchmarks.server.load import Answer, Client
from benchmarks.server.resources import Groups, memory, processor_seconds
from nestor_server.database import plain_url

GET_EVERY, GET_LIMIT = 0.05, 10.0  # seconds
SAMPLE_EVERY = 0.5  # seconds
CONNECTIONS = """
SELECT count(*), count(*) FILTER (WHERE state LIKE 'idle in transaction%') FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'nestor-%' AND application_name NOT LIKE 'nestor-worker%'
"""


class Observer:
    """What was seen from `begin` to `report`. In between it asks and looks, otherwise it does nothing."""

    def __init__(self, client: Client, path: str, database_url: str) -> None:
        self._client, self._path, self._url = client, path, database_url
        self._database: psycopg.Connection | None = None
        self.active = threading.Event()

    def begin(self, groups: Groups, *, memory_every: float | None) -> None:
        """Forget what was seen. With `memory_every`, also note the memory of each group after so many seconds."""
        self.answers: list[Answer] = []
        self.connections, self.idle_in_transaction, self.server_mb = 0, 0, 0.0
        self.memory: list[list[Any]] = []  # [time, {group: MB}]
        self._memory_every, self._memory_due = memory_every, 0.0
        self.groups, self._began = groups, time.monotonic()
        self._before = self._seconds()
        self.active.set()

    def report(self) -> dict[str, Any]:
        """What was seen, as JSON."""
        self.active.clear()
        self.sample()
        passed = time.monotonic() - self._began
        used = {name: seconds - self._before[name] for name, seconds in self._seconds().items()}
        return {
            "seconds": figures.times(self.answers),
            "longest": max((answer.seconds for answer in self.answers), default=None),
            "failed": sum(answer.status != 200 for answer in self.answers),
            "cores": {name: seconds / passed if seconds >= 0 else None for name, seconds in used.items()},  # restarted
            "server_mb": self.server_mb,
            "connections": self.connections,
            "idle_in_transaction": self.idle_in_transaction,
            "memory": self.memory,
        }

    def _seconds(self) -> dict[str, float]:
        return {name: processor_seconds(roots) for name, roots in self.groups.items()}

    def sample(self) -> None:
        """Look at the processes and the database once."""
        self.server_mb = max(self.server_mb, memory(self.groups.get("server", []), shared=True))
        now = time.monotonic()
        if self._memory_every is not None and now >= self._memory_due:
            self._memory_due = now + self._memory_every
            self.memory.append([now, {name: memory(roots) for name, roots in self.groups.items()}])
        try:
            if self._database is None:
                name = "benchmark-observer"
                self._database = psycopg.connect(self._url, autocommit=True, connect_timeout=5, application_name=name)
            row = self._database.execute(CONNECTIONS).fetchone()
        except psycopg.Error:  # it restarts, or has no connection left
            self._database = None
            return
        assert row is not None
        self.connections = max(self.connections, row[0])
        self.idle_in_transaction = max(self.idle_in_transaction, row[1])

    def ask(self) -> None:
        """Ask for the trial, until this process ends."""

        async def forever() -> None:
            line = self._client.line()
            while True:
                if not self.active.is_set():
                    line.close()  # the server closes connections that are quiet for some seconds
                    self.active.wait()
                began = time.monotonic()
                answers = self.answers  # of the period in which the request began
                answers.append(await line.ask(self._path, limit=GET_LIMIT))
                await asyncio.sleep(max(0.0, began + GET_EVERY - time.monotonic()))

        asyncio.run(forever())


def main() -> None:
    given = helper.options()
    addresses = [(host, port) for host, port in given["addresses"]]
    observer = Observer(Client(addresses, given["token"]), given["path"], plain_url(given["settings"]["database_url"]))
    threading.Thread(target=observer.ask, daemon=True).start()
    following = helper.messages()
    while True:
        message = following(SAMPLE_EVERY if observer.active.is_set() else 60.0)
        if message is None:
            if observer.active.is_set():
                observer.sample()
        elif "begin" in message:
            observer.begin(message["begin"], memory_every=message.get("memory_every"))
            helper.answer("begun")
        else:
            helper.answer(observer.report())


if __name__ == "__main__":
    main()
