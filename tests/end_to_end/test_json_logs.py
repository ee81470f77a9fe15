"""Logs as JSON: each line of a server and of a worker is one object, and says what it is about."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from testbed.server import Server, running_server, wait_for
from testbed.services import Services
from testbed.worker import running_worker
from tests.server.conftest import ok

SPEC = {"problem": {"preset": {}}, "n_steps": 5}
KNOWN = {"time", "level", "logger", "message", "exception", "trace_id"}
REQUEST = {"request_id", "trial_id", "method", "path", "status", "duration_seconds"}
ATTEMPT = {"trial_id", "attempt", "worker"}


def lines(log: Path) -> list[dict[str, Any]]:
    """The lines of a log, each of which must be JSON."""
    found = [json.loads(line) for line in log.read_text().splitlines()]
    for line in found:
        assert {"time", "level", "logger", "message"} <= line.keys() <= KNOWN | REQUEST | ATTEMPT, line
        assert line["level"] in ("debug", "info", "warning", "error", "critical")
    return found


def ended(server: Server, trial: str) -> None:
    with server.http() as http:
        wait_for(lambda: ok(http.get(f"/trials/{trial}"))["state"] in ("complete", "failed"), "its end")


@pytest.mark.parametrize("server_workers", [1, 2])
def test_every_line_of_a_server_and_a_worker_is_an_object(services: Services, server_workers: int):
    given = {"log_format": "json", "server_workers": server_workers, "slice_seconds": 1000}
    with running_server(services, redis_db=6, **given) as server:
        with running_worker(server) as worker, server.http() as http:
            study = ok(http.post("/studies", json={"name": "s"}))["id"]
            submitted = http.post(f"/studies/{study}/trials", json=SPEC, headers={"X-Request-ID": "mine"})
            trial = ok(submitted)["id"]
            ended(server, trial)
            assert http.get("/trials/none").status_code == 422
            worker.stop()
            worker_lines = lines(worker.log)
        server.stop()
        server_lines = lines(server.log)

    (line,) = [line for line in server_lines if line.get("request_id") == "mine"]
    assert line["trial_id"] == trial
    assert (line["method"], line["path"], line["status"]) == ("POST", f"/api/v1/studies/{study}/trials", 201)
    assert 0 < line["duration_seconds"] < 60
    assert {line["logger"] for line in server_lines} >= {"nestor_server.access", "uvicorn.error"}

    of_attempt = [line for line in worker_lines if line.get("trial_id") == trial]
    assert len(of_attempt) >= 2  # its begin and its end
    assert {line["attempt"] for line in of_attempt} == {1}
    assert all(line["worker"] for line in of_attempt)
    assert {line["logger"] for line in worker_lines} > {"nestor_worker.app"}


def test_an_exception_is_one_field_of_its_line(services: Services):
    """A migration that the server does not know breaks a request."""
    with running_server(services, redis_db=6, log_format="json") as server:
        with server.sessions.begin() as session:
            session.connection().exec_driver_sql("ALTER TABLE workers DROP COLUMN device")
        with server.http() as http:
            assert http.get("/workers", headers={"X-Request-ID": "broken"}).status_code == 500
        wait_for(lambda: "GET /api/v1/workers 500" in server.log.read_text(), "the last line")
        failed, access = [line for line in lines(server.log) if line.get("request_id") == "broken"]
    assert failed["level"] == "error"
    assert failed["exception"].startswith("Traceback")
    assert "device" in failed["exception"]
    assert (access["logger"], access["status"]) == ("nestor_server.access", 500)


def test_what_a_fork_server_prints_is_a_line_of_its_worker(services: Services, monkeypatch, tmp_path):
    """Python itself prints what it thinks of the environment, before any of our code could format it."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif any('fork_server' in word for word in sys.orig_argv): print('printed', flush=True)\n"
    )
    with running_server(services, redis_db=6, log_format="json") as server, running_worker(server) as worker:
        wait_for(lambda: b"printed" in worker.log.read_bytes(), "the line")
        worker.stop()
        (line,) = [line for line in lines(worker.log) if line["message"] == "printed"]
    assert line["logger"] == "nestor_worker.supervisor.runners.fork_server"


def test_text_stays_the_default(services: Services):
    with running_server(services, redis_db=6) as server:
        assert " INFO uvicorn.error: " in server.log.read_text()


RAISING = """
import threading
from nestor_server.observability import logs
logs.configure("json")
def end(error):
    raise error
for error in (SystemExit(3), ValueError("in a thread")):
    thread = threading.Thread(target=end, args=[error])
    thread.start()
    thread.join()
raise {error}
"""


@pytest.mark.parametrize(("error", "logged"), [("KeyboardInterrupt", 0), ("ValueError('here')", 1)])
def test_what_ends_a_program_or_a_thread_is_logged_unless_it_was_asked_for(error: str, logged: int):
    command = [sys.executable, "-c", RAISING.replace("{error}", error)]
    said = subprocess.run(command, check=False, capture_output=True, text=True).stderr
    found = [json.loads(line) for line in said.splitlines()]
    assert [line["message"] for line in found] == ["uncaught ValueError"] * (1 + logged)
