"""Fixtures for both backends: this process, and a server with a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select

import nestor
from nestor import Client, Study, Trial
from nestor.local.backend import here
from nestor.schemas import Desired, State
from nestor_server import models
from nestor_server.scheduling import leases
from testbed.server import Server, running_server
from testbed.services import Services
from testbed.worker import Worker, running_worker
from tests.client.awaited import Awaited
from tests.client.problems import ridge
from tests.client.shell import Shell
from tests.support.webhooks import LOOPBACK

N_STEPS = 12
QUICK: dict[str, Any] = {
    "inner": nestor.Adam(0.05),
    "inner_steps": 3,
    "outer": nestor.RMSprop(0.05),
    "show_progress_bar": False,
}
BROKER = 5  # a database of Valkey that no other test uses, so that no other worker takes these messages


@pytest.fixture(scope="package")
def started() -> list[Server]:
    """The server of this folder, once a test has used it."""
    return []


@pytest.fixture(scope="package")
def server(services: Services, started: list[Server]) -> Iterator[Server]:
    with running_server(
        services, redis_db=BROKER, heartbeat_seconds=0.3, reap_seconds=0.5, webhook_allow=LOOPBACK
    ) as server:
        started.append(server)
        yield server
        started.remove(server)


@pytest.fixture(autouse=True)
def no_trial_left(started: list[Server]) -> Iterator[None]:
    """End what a test left unfinished, as a failed one does.

    In this process it would reseed torch's generator during the next tests, and on a server it would occupy the worker.
    """
    yield
    here.shut_down()
    for server in started:
        with server.sessions.begin() as session:
            unfinished = select(models.Trial).where(
                models.Trial.state.in_((State.queued, State.running)), models.Trial.desired != Desired.cancel
            )
            for trial in session.scalars(unfinished.with_for_update()).all():
                leases.request(session, trial, "cancel", by="a test")


@pytest.fixture(scope="package")
def worker(server: Server) -> Iterator[Worker]:
    with running_worker(server, NESTOR_CHECKPOINT_SECONDS=0.5, NESTOR_CONCURRENCY=2) as worker:
        yield worker


@pytest.fixture(scope="package")
def token(server: Server) -> str:
    """A token of a new user for this folder."""
    return server.new_token()


@pytest.fixture(scope="package")
def client(server: Server, token: str) -> Iterator[Client]:
    with Client(server.url, token) as client:
        yield client


@pytest.fixture(scope="package")
def shell(server: Server, token: str) -> Shell:
    """Commands with the address and the token of this folder."""
    return Shell(NESTOR_SERVER=server.url, NESTOR_TOKEN=token)


@pytest.fixture
def trial(finished_on_server: Finished) -> Trial:
    """A complete trial on the server."""
    return finished_on_server.trial


@pytest.fixture(params=[Client, Awaited], ids=["Client", "AsyncClient"], name="Client")
def each_client(request: pytest.FixtureRequest) -> type[Client]:
    """Both clients, under the name of one."""
    return request.param


NewStudy = Callable[..., Study]


@pytest.fixture(scope="package", params=["in process", "on a server"])
def place(request: pytest.FixtureRequest) -> Client | None:
    """The argument `server=` of a backend without a worker."""
    return None if request.param == "in process" else request.getfixturevalue("client")


@pytest.fixture(scope="package")
def new_study(place: Client | None, request: pytest.FixtureRequest) -> NewStudy:
    """Create studies on a backend that runs trials."""
    if place is not None:
        request.getfixturevalue("worker")

    def create(name: str | None = None, **options: Any) -> Study:
        return nestor.create_study(name or f"study {uuid4()}", server=place, **options)

    return create


class Finished:
    """A complete trial, for all tests that only read it."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.called_with: list[int] = []
        options = QUICK | {"user_attrs": {"k": [1]}, "evaluate_every": 5}
        self.trial = study.optimize(ridge(), N_STEPS, **options, callbacks=[self._called])

    def _called(self, study: Study, trial: Trial) -> None:
        assert trial.last_step is not None
        self.called_with.append(trial.last_step.number)


@pytest.fixture(scope="package")
def finished_on_server(client: Client, worker: Worker) -> Finished:
    del worker
    return Finished(nestor.create_study("finished [b]", server=client))


@pytest.fixture(scope="package")
def finished(place: Client | None, request: pytest.FixtureRequest) -> Finished:
    return Finished(nestor.create_study()) if place is None else request.getfixturevalue("finished_on_server")
