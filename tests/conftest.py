"""Real services for all tests, started once per session."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import cast

import pytest
from hypothesis import settings

from testbed.server import Server, running_server
from testbed.services import Services, running_services
from testbed.worker import Worker, running_worker

# A shell ignores SIGINT for a suite that runs in the background, and children inherit this: they would never stop
# when a test interrupts them.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, so that failures repeat; no deadline, because machines differ.
settings.register_profile("nestor", deadline=None, derandomize=True, database=None)
settings.load_profile("nestor")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=1, help="number of seeds of the tests with random faults")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "round_number" in metafunc.fixturenames:
        metafunc.parametrize("round_number", range(cast(int, metafunc.config.getoption("--rounds"))))


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """PostgreSQL and Valkey for this session."""
    with running_services() as services:
        yield services


@pytest.fixture(scope="session")
def server(services: Services) -> Iterator[Server]:
    """An API server in its own process, on a migrated database."""
    with running_server(services) as server:
        yield server


@pytest.fixture
def worker(server: Server) -> Iterator[Worker]:
    """A worker for one test. Other tests need trials that stay queued."""
    with running_worker(server) as worker:
        yield worker
