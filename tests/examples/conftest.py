"""The experiments run on a real server and worker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.paper.__main__ import main
from testbed.server import Server
from testbed.worker import running_worker

Experiment = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def working_server(services: Any) -> Iterator[Server]:
    """A server with a worker for all experiments; the server of other tests has no worker."""
    from testbed.server import running_server

    with running_server(services, redis_db=7) as server, running_worker(server):
        yield server


@pytest.fixture
def experiment(working_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """Runs an experiment in its quick form and returns its rows, findings and files."""
    monkeypatch.setenv("NESTOR_SERVER", working_server.url)
    monkeypatch.setenv("NESTOR_TOKEN", working_server.token)

    def run(name: str, *options: str) -> dict[str, Any]:
        written = tmp_path / "rows.json"
        assert main([name, "--quick", "--json", str(written), "--output", str(tmp_path), *options]) == 0
        (result,) = json.loads(written.read_text())
        return result

    return run
