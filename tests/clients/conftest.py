"""A server with a worker for programs in other languages and of other makers, which know nothing but /openapi.json."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.contract import document
from testbed.server import Server, running_server
from testbed.services import Services
from testbed.worker import running_worker

PAGE = Path(__file__).parents[2] / "docs" / "rest.md"
BROKER = 10  # a database of Valkey that no other test uses, so that no other worker takes these messages


@pytest.fixture(scope="session")
def server(services: Services) -> Iterator[Server]:
    with running_server(services, redis_db=BROKER, heartbeat_seconds=0.3) as server, running_worker(server):
        yield server


def documented(program: str) -> str:
    """The command of docs/rest.md that begins with `program`."""
    (command,) = re.findall(rf"^\$ ({program} .*)$", PAGE.read_text(), re.MULTILINE)
    return command


@pytest.fixture(scope="session")
def description(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """/openapi.json as a file."""
    path = tmp_path_factory.mktemp("description") / "openapi.json"
    path.write_text(json.dumps(document()))
    return path


@pytest.fixture
def run(server: Server) -> Callable[..., dict[str, Any]]:
    """Runs a program that drives a trial, and returns what it prints: an object as JSON."""

    def run(*command: str | Path, cwd: Path, **environment: str) -> dict[str, Any]:
        given = {"NESTOR_URL": server.url, "NESTOR_TOKEN": server.new_token()} | environment
        done = subprocess.run(
            command, cwd=cwd, env=os.environ | given, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    return run


def expect_a_whole_trial(result: dict[str, Any]) -> None:
    """Check what both programs print."""
    assert result["state"] == "complete"
    assert result["steps"] == list(range(1, 31))
    assert len(result["val_loss"]) == 30
    assert all(loss > 0 for loss in result["val_loss"])
    assert result["shape"] == [32, 64]
    assert result["bytes"] > 4 * 32 * 64
    assert result["user_attrs"] == {"owner": "ada"}
    assert result["stopped"] == "complete"
    assert result["refused"] == "illegal-transition"
    assert "end" in result["events"]
