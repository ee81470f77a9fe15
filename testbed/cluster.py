"""All parts of Nestor, each of which can break alone. Checkpoints go to an object store; messages arrive twice."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis
from sqlalchemy import make_url, select

from nestor_server.embedded.databases.binaries import find_postgres
from nestor_server.embedded.databases.postgres import Postgres
from nestor_server.embedded.databases.valkey import Valkey
from nestor_server.embedded.home import Home
from nestor_server.models import BlobChunk, UnusedObject
from nestor_server.scheduling.task_queue import QUEUE
from nestor_worker import workdir
from testbed import audit_trigger
from testbed.leaks import expect_no_secrets_in_home
from testbed.objects import keys
from testbed.server import Server, free_port, running_server, serving, wait_for
from testbed.services import Services, fresh_home
from testbed.tcp_proxy import TcpProxy
from testbed.worker import Worker, command, running_worker

LEASE = 5.0  # seconds
PUSHED = re.compile(rb"LPUSH\r\n\$%d\r\n%s\r\n\$(\d+)\r\n" % (len(QUEUE), QUEUE.encode()))


class TestCluster:
    __test__ = False  # pytest collects classes whose names begin with Test

    def __init__(self, stack: ExitStack) -> None:
        self.path = stack.enter_context(fresh_home())
        home = Home(self.path)
        home.acquire()
        stack.callback(home.release)
        stack.callback(expect_no_secrets_in_home, self.path)
        self.postgres, self.valkey = Postgres(home), Valkey(home)
        stack.callback(self.postgres.stop)
        stack.callback(self.valkey.stop)
        self._valkey_url, self.doubled = self.valkey.start(), 0
        self.database, self.broker = TcpProxy(self.postgres.start()), TcpProxy(self._valkey_url, self._send_twice)
        for proxy in (self.database, self.broker):
            stack.callback(proxy.close)
        services = Services(home.path, self.database.url, self.broker.url)
        short_intervals = {
            "lease_seconds": LEASE, "heartbeat_seconds": 0.5, "reap_seconds": 0.3, "requeue_after_seconds": 1.5,
            "max_restarts": 20,  # faults may follow each other sooner than checkpoints
        }  # fmt: skip
        self.blob_url = f"file://{self.path}/objects"
        large = {"blob_url": self.blob_url, "large_blob_bytes": 4_096, "object_grace_seconds": 30}
        self.server: Server = stack.enter_context(running_server(services, **short_intervals, **large))
        audit_trigger.install(self.server)
        self._workers, self._pids = stack.enter_context(ExitStack()), set[int]()
        self.worker = self.new_worker()

    def new_worker(self, **env: object) -> Worker:
        given = {"NESTOR_CHECKPOINT_SECONDS": 0.1} | env
        worker = self._workers.enter_context(running_worker(self.server, **given))
        self._pids.add(worker.pid)
        return worker

    def restart_postgres(self) -> None:
        self.postgres.stop()
        self.database.forward_to(self.postgres.start())

    def restart_valkey(self) -> None:
        self.valkey.stop()
        self._valkey_url = self.valkey.start()
        self.broker.forward_to(self._valkey_url)

    def flush_broker(self) -> None:
        with redis.Redis.from_url(self._valkey_url) as broker:
            broker.flushall()

    def _send_twice(self, data: bytes) -> None:
        for pushed in PUSHED.finditer(data):
            message = data[pushed.end() : pushed.end() + int(pushed[1])]
            if len(message) == int(pushed[1]):
                with redis.Redis.from_url(self._valkey_url) as broker:
                    broker.lpush(QUEUE, message)
                self.doubled += 1

    @contextmanager
    def restored_from_a_backup(self) -> Iterator[Server]:
        """A second server on a backup that is made now, as docs/operations.md describes."""
        programs, _ = find_postgres(None)
        dump, copy = self.path / "nestor.dump", self.path / "objects-copy"
        origin = make_url(self.server.settings.database_url).set(drivername="postgresql")
        shown = lambda url: url.render_as_string(hide_password=False)
        run = lambda program, *arguments: subprocess.run([programs / program, *arguments], check=True)
        run("pg_dump", "--format=custom", f"--file={dump}", shown(origin))
        shutil.copytree(self.path / "objects", copy)
        run("createdb", f"--maintenance-db={shown(origin)}", "restored")
        restored = shown(origin.set(database="restored"))
        run("pg_restore", "--no-owner", "--no-privileges", "--exit-on-error", f"--dbname={restored}", dump)
        copied_settings = {
            "database_url": restored, "redis_url": f"{self._valkey_url.rpartition('/')[0]}/1",
            "blob_url": f"file://{copy}", "port": free_port(),
        }  # fmt: skip
        with serving(self.server.settings.model_dump(exclude_none=True) | copied_settings) as server:
            yield server

    def expect_no_leftovers(self) -> None:
        """Dead workers left no process and no work directory, and every stored object belongs to a blob."""
        assert self.doubled > 0
        wait_for(lambda: not self.worker.runners(), "the last runner to be gone")
        dead = self._pids - {self.worker.pid}
        assert not [
            pid for pid in processes() if any(workdir.prefix(worker).encode() in command(pid) for worker in dead)
        ]

        def only_used_objects() -> bool:
            with self.server.sessions() as session:
                used = set(session.scalars(select(BlobChunk.object).where(BlobChunk.object.is_not(None))))
                noted = set(session.scalars(select(UnusedObject.key)))
            return bool(used) and keys(self.blob_url) - noted == used

        wait_for(only_used_objects, "unused objects to be deleted")
        with running_worker(self.server, NESTOR_STANDBY=False):  # it deletes the directories of killed workers
            left = [path for pid in dead for path in Path(tempfile.gettempdir()).glob(f"{workdir.prefix(pid)}*")]
            assert left == []


def processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
