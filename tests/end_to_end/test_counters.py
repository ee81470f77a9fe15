"""The counters of a real worker: what it recorded of real trials, and how its attempts ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy import text

from nestor_server.models import Worker
from testbed.server import Server, running_server, wait_for
from testbed.services import Services
from testbed.worker import running_worker
from tests.server.conftest import ok
from tests.server.test_metrics import Sample, of, reaches, scrape

SPEC = {"problem": {"preset": {}}, "n_steps": 12}
PHASES = ("inner", "hypergradient", "evaluation")


@pytest.fixture
def server(services: Services) -> Iterator[Server]:
    impatient = {"lease_seconds": 3, "heartbeat_seconds": 0.5, "reap_seconds": 0.3}
    with running_server(services, redis_db=8, **impatient) as server:
        yield server


def kinds(found: dict[Sample, float]) -> dict[str, float]:
    names = ("checkpoint", "snapshot", "result")
    return {name: found[of("recorded_bytes_total", kind=name)] for name in names}


def test_a_worker_counts_what_it_records_and_shows_the_memory_of_its_runner(server: Server):
    with server.http() as http:
        study = ok(http.post("/studies", json={"name": "s"}))["id"]
        with running_worker(server):
            long = ok(http.post(f"/studies/{study}/trials", json=SPEC | {"n_steps": 100_000}))["id"]
            wait_for(lambda: ok(http.get(f"/trials/{long}"))["step"] > 0, "steps")
            memory = "nestor_worker_runner_memory_bytes"
            wait_for(lambda: any(name == memory for name, _ in scrape(server)), "the memory of the runner")
            (used,) = [value for (name, _), value in scrape(server).items() if name == memory]
            assert 20 * 2**20 < used < 4 * 2**30  # torch alone takes more
            assert scrape(server)[of("worker_slots", state="busy")] == 1
            ok(http.post(f"/trials/{long}/pause"))
            reaches(server, of("attempts_ended_total", end="paused"), 1)
            taken = ok(http.get(f"/trials/{long}"))["step"]
            assert scrape(server)[of("steps_recorded_total")] == taken

            short = ok(http.post(f"/studies/{study}/trials", json=SPEC))["id"]
            reaches(server, of("attempts_ended_total", end="complete"), 1)
            found = scrape(server)
            assert found[of("steps_recorded_total")] == taken + SPEC["n_steps"]
            assert not [name for name, _ in found if name == memory]  # none runs

        with server.sessions.begin() as session:
            for trial in (long, short):
                assert session.scalar(text("SELECT count(*) FROM steps WHERE trial_id = :id"), {"id": trial})
            for phase in PHASES:
                spent = text(f"SELECT sum((data #>> '{{seconds,{phase}}}')::float) FROM steps")
                assert found[of("step_seconds_total", phase=phase)] == pytest.approx(session.scalar(spent))
            stored = text("SELECT sum(size) FROM blobs JOIN checkpoints ON blob_id = blobs.id")
            assert kinds(found)["checkpoint"] >= session.scalar(stored)
        assert all(kinds(found).values())
        assert scrape(server)[of("steps_recorded_total")] == taken + SPEC["n_steps"]  # the worker's end changes nothing


def test_a_killed_runner_is_an_interrupted_attempt_and_a_silent_worker_an_expired_one(server: Server):
    with server.http() as http:
        study = ok(http.post("/studies", json={"name": "s"}))["id"]
        trial = ok(http.post(f"/studies/{study}/trials", json=SPEC | {"n_steps": 100_000}))["id"]
        with running_worker(server) as worker:
            wait_for(lambda: ok(http.get(f"/trials/{trial}"))["step"] > 0, "steps")
            (runner,) = worker.runners()
            os.kill(runner, signal.SIGKILL)
            reaches(server, of("attempts_ended_total", end="interrupted"), 1)
            wait_for(lambda: ok(http.get(f"/trials/{trial}"))["state"] == "running", "another attempt")
            worker.kill()
            reaches(server, of("worker_slots", state="silent"), 1)
            reaches(server, of("attempts_ended_total", end="expired"), 1)


def until_more_steps(http: httpx.Client, trial: str) -> None:
    before = ok(http.get(f"/trials/{trial}"))["step"]
    wait_for(lambda: ok(http.get(f"/trials/{trial}"))["step"] > before, "steps")


def test_a_worker_that_drains_and_one_that_shuts_down_are_counted_apart(server: Server):
    with server.http() as http:
        study = ok(http.post("/studies", json={"name": "s"}))["id"]
        trial = ok(http.post(f"/studies/{study}/trials", json=SPEC | {"n_steps": 100_000}))["id"]
        for end in ("drained", "shutdown"):
            with running_worker(server) as worker:
                until_more_steps(http, trial)
                if end == "drained":
                    ok(http.post(f"/workers/{Worker.id_of(worker.pid)}/drain"))
                else:
                    assert worker.stop() == 0
                reaches(server, of("attempts_ended_total", end=end), 1)
    ends = {
        end: scrape(server).get(of("attempts_ended_total", end=end), 0) for end in ("drained", "shutdown", "yielded")
    }
    assert ends == {"drained": 1, "shutdown": 1, "yielded": 0}
