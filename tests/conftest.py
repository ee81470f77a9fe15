"""The real parts that every test may use, started once a session."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.server import Server, running_server
from tests.support.services import Services, running_services
from tests.support.worker import Worker, running_worker

# A shell that runs the suite in the background has it ignore SIGINT, and children inherit that: those that a test
# interrupts would go on for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, so that a red run is red twice; and no deadline, for machines differ.
settings.register_profile("nestor", deadline=None, derandomize=True, database=None)
settings.load_profile("nestor")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=1, help="seeds of the tests that break things at random")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "round_number" in metafunc.fixturenames:
        metafunc.parametrize("round_number", range(metafunc.config.getoption("--rounds")))


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """PostgreSQL and Valkey of this session's own."""
    with running_services() as services:
        yield services


@pytest.fixture(scope="session")
def server(services: Services) -> Iterator[Server]:
    """An API server on a migrated database, in a process of its own."""
    with running_server(services) as server:
        yield server


@pytest.fixture
def worker(server: Server) -> Iterator[Worker]:
    """A worker for one test: a longer-lived one would run the trials that other tests want to see queued."""
    with running_worker(server) as worker:
        yield worker
