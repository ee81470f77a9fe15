"""All parts on one machine, started in order and stopped in reverse: databases, API server, workers.

A part that ends is started again. PostgreSQL recovers from its log and Valkey from its append-only file, both at their
old addresses, so the server and the workers connect again by themselves.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import final
from urllib.parse import unquote, urlsplit

import httpx

from nestor_server.embedded import access, accounts, logs
from nestor_server.embedded.accounts import Account
from nestor_server.embedded.databases.postgres import Postgres, free_port
from nestor_server.embedded.databases.valkey import Valkey
from nestor_server.embedded.environment import restricted
from nestor_server.embedded.errors import AddressUnusable, DatabaseUnusable, EmbeddedDatabaseUnusable, PortTaken
from nestor_server.embedded.home import Home, write_private
from nestor_server.embedded.process import Child
from nestor_server.embedded.supervision import Supervisor
from nestor_server.settings import SERVICES, Settings, read_settings
from nestor_server.storage.object_store import is_object

READY_SECONDS = 60.0
STOP_SECONDS = 25.0  # for workers to write checkpoints
WATCH_SECONDS = 0.2  # between two checks of the children
LOG_SECONDS = 5.0  # between two checks for long logs


class Stopped(BaseException):
    """A signal asked this process to end. A BaseException, so that no `except Exception` catches it."""


def stop_on_signals() -> None:
    """Let Ctrl-C, SIGTERM and a closed terminal raise `Stopped` in the main thread, once."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup nestor up` outlives its terminal
        numbers.append(signal.SIGHUP)

    def handle(_: int, __: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the orderly shutdown
        raise Stopped

    for number in numbers:
        signal.signal(number, handle)


@dataclass(frozen=True)
class Address:
    """Where the API server listens."""

    host: str
    port: int

    @classmethod
    def free(cls, host: str, port: int) -> Address:
        """The address, after a check that it can be bound. Port 0 becomes a free port.

        Raises:
            PortTaken, AddressUnusable
        """
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
        """The URL for a browser on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


@final
class Stack:
    """All parts. Use it as `with Stack(...) as stack: stack.watch()` in the main thread; exit stops every part.

    Args:
        workers: number of worker processes, which divide the machine's devices and cores among them.
    """

    def __init__(
        self, home: Path, *, host: str, port: int, workers: int = 1, say: Callable[[str], None] = print
    ) -> None:
        self.home = Home(home)
        self.token = ""  # nosec B105 # none yet
        self.url = ""
        self._requested = (host, port)
        self._worker_names = ["worker"] if workers == 1 else [f"worker-{i}" for i in range(1, workers + 1)]
        self._say = say
        self._parts = ExitStack()
        self._children: dict[str, Child] = {}
        self._supervisor = Supervisor(say, self._on_restart)

    def __enter__(self) -> Stack:
        with ExitStack() as parts:  # stops the started parts if a later one fails
            self._start(parts)
            self._parts = parts.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._parts.close()

    def _start(self, parts: ExitStack) -> None:
        home = self.home
        home.acquire()
        parts.callback(home.release)
        address = Address.free(*self._requested)
        self.url = address.url
        for name in ("postgres", "valkey", "server", *self._worker_names):
            logs.rotate(home.log(name))  # before a part notes where its log begins

        own: dict[str, str] = {}  # addresses of databases that this process runs
        redis_url = os.environ.get("NESTOR_REDIS_URL")
        if redis_url:
            access.check_broker(redis_url)
        if not os.environ.get("NESTOR_DATABASE_URL"):
            postgres = Postgres(home)
            parts.callback(postgres.stop)
            own["database_url"] = postgres.start()
            own |= {f"{service}_database_url": postgres.url_of(service) for service in SERVICES}
            self._watch_database(postgres, is_free=postgres.is_free)
        if not redis_url:
            valkey = Valkey(home)
            parts.callback(valkey.stop)
            redis_url = valkey.start()
            self._watch_database(valkey)

        settings = read_settings(Settings, **own)
        self.token = access.prepare(settings, home)

        # By environment and not by argv, which every user can read.
        environment = restricted(os.environ) | {
            "NESTOR_REDIS_URL": redis_url,
            "NESTOR_HOST": address.host,
            "NESTOR_PORT": str(address.port),
            "NESTOR_HOME": str(home.path),
            "NESTOR_DATA_ROOTS": os.environ.get("NESTOR_DATA_ROOTS", access.data_roots(address.host)),
            "NESTOR_CACHE_DIR": os.environ.get("NESTOR_CACHE_DIR", str(home.path / "cache")),
            "PYTHONUNBUFFERED": "1",
        }
        for name in ("NESTOR_TOKEN", "NESTOR_SERVER_DATABASE_URL", "NESTOR_WORKER_DATABASE_URL"):
            environment.pop(name, None)
        home.clear_scratch()
        self._hand_over(environment)
        of_service = {name: environment | {"NESTOR_DATABASE_URL": settings.url_of(name)} for name in SERVICES}
        self._start_child("server", "nestor_server", of_service["server"])
        parts.callback(self._children["server"].stop)
        parts.callback(self._stop_workers)
        for number, name in enumerate(self._worker_names):
            share = {"NESTOR_WORKER_COUNT": str(len(self._worker_names)), "NESTOR_WORKER_NUMBER": str(number)}
            self._start_child(name, "nestor_worker", of_service["worker"] | share)
        self._wait_for_children(settings)
        for name in ("server", *self._worker_names):
            self._supervisor.add(self._children[name])
        parts.callback(home.server_file.unlink, missing_ok=True)
        self._announce()

    def _start_child(self, name: str, module: str, environment: dict[str, str]) -> None:
        account = self._account(name)
        argv = [sys.executable, "-P", "-m", module]  # -P: never import files from the home
        if account is not None:
            port = environment["NESTOR_PORT"] if name == "server" else "0"
            ids = (account.uid, account.gid, os.getpid(), port)
            argv = [*argv[:-1], "nestor_worker.containment.launch", *map(str, ids), *argv]
        env = environment | {"TMPDIR": str(self.home.scratch(name, account))}
        self._children[name] = Child(name, argv, log=self.home.log(name), env=env, cwd=self.home.path)
        self._children[name].start()

    def _account(self, name: str) -> Account | None:
        return accounts.of_service("server" if name == "server" else "worker", self.home.path)

    def _hand_over(self, environment: Mapping[str, str]) -> None:
        """Give server and workers what they write to, which belongs to root in the homes of earlier versions."""
        server, worker = self._account("server"), self._account("worker")
        if server is None or worker is None:
            return
        worker.takes_over(self.home.path / "cache")
        store = urlsplit(environment.get("NESTOR_BLOB_URL", ""))
        if store.scheme == "file":
            server.takes_over(Path(unquote(store.path)), is_object)

    def _watch_database(self, database: Postgres | Valkey, is_free: Callable[[], bool] = lambda: True) -> None:
        assert database.child is not None
        self._children[database.name] = database.child
        self._supervisor.add(database.child, is_free=is_free)

    def _wait_for_children(self, settings: Settings) -> None:
        """Wait until the server answers and every worker has registered, so that a trial submitted now runs."""
        reason = ""

        def answers() -> bool:
            nonlocal reason
            self._supervisor.check()  # of the databases
            reason = unreadiness(self.url)
            return not reason

        def is_registered(worker: Child) -> bool:
            self._supervisor.check()
            try:
                return bool(access.registered_workers(settings, [worker.pid], seconds=worker.seconds))
            except (DatabaseUnusable, EmbeddedDatabaseUnusable):  # it may be starting again
                return False

        self._children["server"].wait_until(answers, timeout=READY_SECONDS, pause=0.1, why=lambda: reason)
        for name in self._worker_names:
            worker = self._children[name]
            worker.wait_until(
                lambda worker=worker: is_registered(worker),
                timeout=READY_SECONDS,
                pause=0.2,
                why=lambda: "it did not connect to the broker",
            )

    def _announce(self) -> None:
        pids = {name: self._children[name].pid for name in self._worker_names}
        write_private(self.home.server_file, access.server_info(self.url, pids))

    def _stop_workers(self) -> None:
        self._supervisor.hurry(Postgres.name)  # workers write checkpoints to it
        workers = [self._children[name] for name in self._worker_names if name in self._children]
        for worker in workers:
            worker.signal_stop()
        end = time.monotonic() + STOP_SECONDS
        for worker in workers:
            worker.stop(timeout=max(0.1, end - time.monotonic()))

    @property
    def names(self) -> list[str]:
        """The names of the started parts."""
        return list(self._children)

    def watch(self) -> None:
        """Restart parts that end, and rotate long logs. Never returns.

        Raises:
            EndsAgain: a part ended too often.
            Stopped: after `stop_on_signals`, on a signal.
        """
        logs_due = time.monotonic()
        while True:
            time.sleep(WATCH_SECONDS)
            if time.monotonic() >= logs_due:
                for child in self._children.values():
                    child.rotate_log()
                logs_due = time.monotonic() + LOG_SECONDS
            self._supervisor.check()

    def _on_restart(self, child: Child) -> None:
        if child.name not in self._worker_names:
            return
        try:
            self._announce()
        except OSError as error:  # a full disk
            self._say(
                f"`nestor doctor` still looks at the {child.name} that ended, because a file cannot be written: {error}"
            )


def unreadiness(url: str) -> str:
    """Why the server at `url` cannot be used yet: which part that it needs does not answer; "" if it is ready."""
    try:
        response = httpx.get(f"{url}/readyz", timeout=2.0, trust_env=False)
    except httpx.HTTPError as error:
        return str(error) or type(error).__name__
    return "" if response.status_code == 200 else response.text[:300]
