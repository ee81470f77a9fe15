"""A server and a worker for this folder, with shorter timeouts than the defaults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.api import Api
from testbed.server import Server, running_server
from testbed.services import Services
from testbed.worker import Worker, running_worker

BROKER = 7  # a database of Valkey that no other test uses, so that no other worker takes these messages


@pytest.fixture(scope="module")
def server(services: Services) -> Iterator[Server]:
    impatient = {"lease_seconds": 3, "heartbeat_seconds": 0.5, "reap_seconds": 0.3, "requeue_after_seconds": 1.5}
    with running_server(services, redis_db=BROKER, **impatient) as server:
        yield server


@pytest.fixture(scope="module")
def worker(server: Server) -> Iterator[Worker]:
    with running_worker(server, NESTOR_CHECKPOINT_SECONDS=0.3) as worker:
        yield worker


@pytest.fixture
def api(server: Server) -> Iterator[Api]:
    with server.http(server.new_token()) as http:
        api = Api(http, server)
        yield api
        for trial in http.get(f"/studies/{api.study}/trials").json()["items"]:
            if trial["finished_at"] is None:  # trials of a failed test would occupy the worker of the next one
                api.ask(trial["id"], "cancel")
