"""A server and a worker of this folder's own, which lose patience with each other sooner than real ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.server import Server, running_server
from tests.support.services import Services
from tests.support.worker import Worker, running_worker

BROKER = 7  # a database of Valkey that no other test uses: a foreign worker would take our messages


@pytest.fixture(scope="package")
def server(services: Services) -> Iterator[Server]:
    impatient = {"lease_seconds": 3, "heartbeat_seconds": 0.5, "reap_seconds": 0.3, "requeue_after_seconds": 1.5}
    with running_server(services, redis_db=BROKER, **impatient) as server:
        yield server


@pytest.fixture
def worker(server: Server) -> Iterator[Worker]:
    with running_worker(server, NESTOR_CHECKPOINT_SECONDS=0.3) as worker:
        yield worker
