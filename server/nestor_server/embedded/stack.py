"""Everything of one machine, started in order and stopped in the reverse one: databases, API server, worker.

PostgreSQL or Valkey that dies takes the rest down with it, for its data may be in doubt; the API server and the
worker are started again, a little later each time, and give up after `RESTARTS` deaths in quick succession.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import final

import httpx

from nestor_server.embedded import access
from nestor_server.embedded.errors import AddressUnusable, PortTaken
from nestor_server.embedded.home import Home, write_private
from nestor_server.embedded.postgres import Postgres, free_port
from nestor_server.embedded.process import Child, how
from nestor_server.embedded.valkey import Valkey

READY_SECONDS = 60.0
WATCH_SECONDS = 0.2  # between two looks at the children
RESTARTS = 5
FIRST_PAUSE_SECONDS = 0.5  # doubled with every restart
STEADY_SECONDS = 60.0  # a child that ran for so long has its restarts back
LOG_BYTES = 10 * 2**20  # a log that is longer is put aside at the next start
PARTS = ("postgres", "valkey", "server", "worker")


class Stopped(BaseException):
    """Someone asked us to end: not an error, so no `except Exception` on the way may swallow it."""


def stop_on_signals() -> None:
    """From here on Ctrl-C, SIGTERM and a closed terminal raise `Stopped` in the main thread, once."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup nestor up` is to outlive its terminal
        numbers.append(signal.SIGHUP)

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)  # an impatient second Ctrl-C must not cut the orderly end short
        raise Stopped

    for each in numbers:
        signal.signal(each, handle)


@final
class Restarts:
    """Whether, and after what pause, a child that died is started again."""

    def __init__(self) -> None:
        self._count = 0
        self._started = time.monotonic()

    def next_pause(self) -> float | None:
        """None when it has died too often."""
        if time.monotonic() - self._started > STEADY_SECONDS:
            self._count = 0
        self._count += 1
        return None if self._count > RESTARTS else FIRST_PAUSE_SECONDS * 2 ** (self._count - 1)

    def started(self) -> None:
        self._started = time.monotonic()


@dataclass(frozen=True)
class Address:
    host: str
    port: int

    @classmethod
    def free(cls, host: str, port: int) -> Address:
        """This address, once it is certain that one can listen there; port 0 becomes one that is free."""
        port = port or free_port()
        try:
            family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
                probe.bind(where)
                probe.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTaken(host=host, port=port) from error
            raise AddressUnusable(host=host, port=port, reason=error.strerror or str(error)) from error
        return cls(host, port)

    @property
    def url(self) -> str:
        """How a browser on this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


@final
class Stack:
    """`with Stack(...) as stack: stack.watch()`, in the main thread; leaving it stops every part, worker first."""

    def __init__(self, home: Path, *, host: str, port: int, say: Callable[[str], None] = print) -> None:
        self.home = Home(home)
        self.token = ""
        self.url = ""
        self._wanted = (host, port)
        self._say = say
        self._parts = ExitStack()
        self._databases: list[Postgres | Valkey] = []
        self._children: dict[str, Child] = {}
        self._restarts = {"server": Restarts(), "worker": Restarts()}

    def __enter__(self) -> Stack:
        with ExitStack() as parts:  # what is already up is stopped when a later part fails
            self._start(parts)
            self._parts = parts.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._parts.close()

    def _start(self, parts: ExitStack) -> None:
        home = self.home
        home.acquire()
        parts.callback(home.release)
        address = Address.free(*self._wanted)
        self.url = address.url
        for name in PARTS:
            _put_aside(home.log(name))

        database_url, redis_url = os.environ.get("NESTOR_DATABASE_URL"), os.environ.get("NESTOR_REDIS_URL")
        if not database_url:
            postgres = Postgres(home)
            parts.callback(postgres.stop)
            database_url = postgres.start()
            self._databases.append(postgres)
        if not redis_url:
            valkey = Valkey(home)
            parts.callback(valkey.stop)
            redis_url = valkey.start()
            self._databases.append(valkey)

        self.token = access.prepare(database_url, home)

        # By environment, never by argv: every user can read a command line.
        environment = {name: value for name, value in os.environ.items() if name != "NESTOR_TOKEN"} | {
            "NESTOR_DATABASE_URL": database_url,
            "NESTOR_REDIS_URL": redis_url,
            "NESTOR_HOST": address.host,
            "NESTOR_PORT": str(address.port),
            "NESTOR_HOME": str(home.path),
            "NESTOR_CACHE_DIR": os.environ.get("NESTOR_CACHE_DIR", str(home.path / "cache")),
            "TMPDIR": str(home.scratch()),
            "PYTHONUNBUFFERED": "1",
        }
        for name, module, patience in (("server", "nestor_server", 10.0), ("worker", "nestor_worker", 25.0)):
            child = Child(
                name,
                [sys.executable, "-P", "-m", module],  # -P: what lies in the home is not to be imported
                log=home.log(name),
                env=environment,
                cwd=home.path,
            )
            self._children[name] = child
            parts.callback(child.stop, patience=patience)
            child.start()
            self._restarts[name].started()
        self._children["server"].wait_until(lambda: ready(self.url), timeout=READY_SECONDS, pause=0.1)
        parts.callback(home.server_file.unlink, missing_ok=True)
        write_private(home.server_file, access.description(self.url))

    @property
    def names(self) -> list[str]:
        """The parts that run here."""
        return [*(database.name for database in self._databases), *self._children]

    def watch(self) -> None:
        """Keep everything running; returns never, raises `ChildFailed` when something cannot be kept running."""
        while True:
            time.sleep(WATCH_SECONDS)
            for database in self._databases:
                if (code := database.poll()) is not None:
                    raise database.failed(f"ended with {how(code)}, so everything was stopped")
            for name, child in self._children.items():
                if (code := child.poll()) is not None:
                    self._start_again(name, child, code)

    def _start_again(self, name: str, child: Child, code: int) -> None:
        restarts = self._restarts[name]
        pause = restarts.next_pause()
        if pause is None:
            raise child.failed(f"ended with {how(code)} {RESTARTS + 1} times in a row, so everything was stopped")
        self._say(f"The {name} ended with {how(code)}; it starts again in {pause:g} s. Its log: {child.log}")
        time.sleep(pause)
        child.stop()  # what is left of it
        child.start()
        restarts.started()


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _put_aside(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
