"""What is loaded: servers on one new database, and a worker if the load needs one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from benchmarks.server.helper import Helper, helper
from benchmarks.server.load import Client
from benchmarks.server.recorder import Recorder
from benchmarks.server.resources import Groups
from nestor.schemas import StudyCreate
from nestor_server.database import Sessions
from nestor_server.services import studies
from nestor_server.services.access import tokens
from testbed.server import Server, free_port, running_server, serving
from testbed.services import Services
from testbed.worker import Worker, running_worker

LEASE_SECONDS = 600.0  # of trials whose recorder may wait long for the database


@dataclass
class Target:
    """The servers, and how to reach and watch them."""

    services: Services
    servers: list[Server]
    worker: Worker | None
    observer: Helper  # `benchmarks.server.observer`, of another user than those of the parts
    recorder: Helper  # `benchmarks.server.recorder`

    @property
    def sessions(self) -> Sessions:
        return self.servers[0].sessions

    @property
    def groups(self) -> Groups:
        """The processes to watch."""
        data = self.services.home / "postgres" / "data"
        found = {
            "server": [server.process.pid for server in self.servers if server.process is not None],
            "postgres": [int((data / "postmaster.pid").read_text().split()[0])],
        }
        return found | ({"worker": [self.worker.pid]} if self.worker else {})

    def user(self) -> User:
        """A new user with a study."""
        return _user(self.servers)

    def restart(self) -> None:
        """Start all servers again. One that does not end by itself is killed."""
        for server in self.servers:
            with suppress(subprocess.TimeoutExpired):
                server.stop()
            server.start()

    def observe(self, *, memory_every: float | None = None) -> None:
        """Let the observer begin. With `memory_every`, it notes the memory of all groups after so many seconds."""
        self.observer.ask(begin=self.groups, memory_every=memory_every)

    def observed(self) -> dict[str, Any]:
        """What the observer has seen, which stops."""
        return self.observer.ask(report=True)


@dataclass(frozen=True)
class User:
    """A user, and the study of their trials."""

    client: Client
    study: str


def _user(servers: list[Server]) -> User:
    token = servers[0].new_token()
    with servers[0].sessions.begin() as session:  # not by HTTP: the server may still suffer from the last case
        study, _ = studies.create(session, tokens.authenticate(session, token).user_id, StudyCreate(name="load"))
    return User(Client([("127.0.0.1", server.settings.port) for server in servers], token), str(study.id))


@contextmanager
def running(services: Services, *, n_servers: int, workers: int, with_worker: bool) -> Iterator[Target]:
    """`n_servers` servers of `workers` processes each, on a new database."""
    settings: dict[str, Any] = {"lease_seconds": LEASE_SECONDS} | ({"server_workers": workers} if workers > 1 else {})
    with ExitStack() as stack:
        first = stack.enter_context(running_server(services, **settings))
        given = first.settings.model_dump(exclude_none=True)
        more = [stack.enter_context(serving(given | {"port": free_port()})) for _ in range(n_servers - 1)]
        servers = [first, *more]
        observer, recorder = _helpers(servers, stack)
        worker = stack.enter_context(running_worker(first)) if with_worker else None
        yield Target(services, servers, worker, observer, recorder)


def _helpers(servers: list[Server], stack: ExitStack) -> tuple[Helper, Helper]:
    first, other = servers[0], _user(servers)
    trial = Recorder(first.sessions, other.client.token, other.study)
    trial.finish()
    settings = first.settings.model_dump(exclude_none=True)
    observing: dict[str, Any] = {"addresses": other.client.addresses, "token": other.client.token, "path": trial.path}
    return (
        stack.enter_context(helper("benchmarks.server.observer", settings=settings, **observing)),
        stack.enter_context(helper("benchmarks.server.recorder", settings=settings)),
    )
