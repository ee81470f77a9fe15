"""The list of workers, a trial's log, and a trial by its number."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import pytest

from nestor_server.models import Worker
from nestor_server.scheduling.recording import LogRecord
from testbed.server import Server
from tests.server.conftest import Run, ok, problem


@pytest.fixture
def workers(server: Server, run: Run) -> Iterator[None]:
    """One worker that runs the trial, one that is idle, and one that ended without a word."""
    now = datetime.now(UTC)
    rows = [
        Worker(id="here:1", device="cuda:0", versions={"torch": "2.13"}, heartbeat_at=now, trial_id=run.id),
        Worker(id="here:2", device="cpu", versions={"torch": "2.13"}, heartbeat_at=now),
        Worker(id="here:3", device="cpu", versions={}, heartbeat_at=now - timedelta(hours=1)),
    ]
    names = [row.id for row in rows]
    with server.sessions.begin() as session:
        session.add_all(rows)
    yield
    with server.sessions.begin() as session:
        for name in names:
            session.delete(session.get_one(Worker, name))


def test_running_workers_are_listed_and_trials_of_others_are_not_named(
    http: httpx.Client, stranger: httpx.Client, run: Run, workers: None
):
    def listed(client: httpx.Client) -> list[tuple]:
        found = ok(client.get("/workers"))
        assert found["queued"] >= 0
        return [(one["id"], one["device"], one["busy"], one["trial"]) for one in found["items"]]

    idle = ("here:2", "cpu", False, None)
    assert listed(http) == [("here:1", "cuda:0", True, str(run.id)), idle]
    assert listed(stranger) == [("here:1", "cuda:0", True, None), idle]


def test_queued_trials_are_counted(http: httpx.Client, submit):
    before = ok(http.get("/workers"))["queued"]
    submit()
    assert ok(http.get("/workers"))["queued"] >= before + 1  # leases of other tests expire meanwhile


def test_a_worker_shows_what_it_runs_to_the_owner_alone_and_what_waits_for_it(
    http, stranger, run: Run, workers, submit
):
    run.record(4)
    before = {one["id"]: one["queue"] for one in ok(http.get("/workers"))["items"]}
    submit()
    submit(devices_per_trial=2)
    here, idle = ok(http.get("/workers"))["items"]
    trial = ok(http.get(run.path))
    assert [here[name] for name in ("study_id", "study", "number", "step", "n_steps")] == [
        trial["study_id"],
        "study",
        trial["number"],
        4,
        trial["n_steps"],
    ]
    assert 0 <= here["heartbeat_age_seconds"] < 60
    assert (here["status"], here["slots"], here["busy_slots"], here["process"]) == ("busy", 1, 1, "here:1")
    assert (idle["status"], idle["busy_slots"]) == ("idle", 0)
    # Trials of other tests may be queued meanwhile, but none needs two devices.
    assert idle["queue"] == before["here:2"] + 1
    (theirs, _) = ok(stranger.get("/workers"))["items"]
    assert (theirs["busy"], theirs["queue"]) == (True, here["queue"])
    assert {theirs[name] for name in ("trial", "study_id", "study", "number", "step", "n_steps")} == {None}


def test_a_trial_waits_behind_each_worker_that_could_run_it(http: httpx.Client, server: Server, submit):
    """Which of the workers has the devices, and the entry point."""
    info = {"entry_point": "m:settling", "package": "m 1", "parameters": [], "takes_others": True}
    offers = {"m:settling": info, "m:broken": info | {"entry_point": "m:broken", "error": "ImportError"}}
    rows = {
        "w:1/0": {"device": "0, 1", "entry_points": {}},
        "w:1/1": {"device": "2, 3", "entry_points": {}},
        "w:2": {"device": "cpu", "entry_points": offers},
    }
    with server.sessions.begin() as session:
        session.add_all(Worker(id=name, versions={}, **fields) for name, fields in rows.items())
    queues = lambda: {one["id"]: one["queue"] for one in ok(http.get("/workers"))["items"] if one["id"] in rows}
    try:
        before = queues()
        submit()
        submit(devices_per_trial=2)
        submit(problem={"entry_point": "m:settling", "params": {}})
        assert {name: queues()[name] - before[name] for name in rows} == {"w:1/0": 2, "w:1/1": 2, "w:2": 2}
    finally:
        with server.sessions.begin() as session:
            for name in rows:
                session.delete(session.get_one(Worker, name))


def test_an_operator_drains_a_worker_and_takes_it_back(server: Server, http, workers, run: Run):
    with server.http() as operator:
        for client, status in ((http, 403), (operator, 200)):
            assert client.post("/workers/here:2/drain").status_code == status
        (slot,) = ok(operator.post("/workers/here:2/drain"))["items"]
        assert (slot["id"], slot["status"]) == ("here:2", "drained")
        (slot,) = ok(operator.post("/workers/here:1%2F0/drain"))["items"]  # a slot names its process
        assert (slot["id"], slot["status"], slot["trial"]) == ("here:1", "draining", None)  # it is another user's
        assert ok(http.get(run.path))["desired"] == "run"  # another worker holds it
        problem(http.delete("/workers/here:2/drain"), 403, "forbidden")
        for _ in range(2):
            (slot,) = ok(operator.delete("/workers/here:2/drain"))["items"]
            assert (slot["status"], slot["draining_since"]) == ("idle", None)
        for gone in ("here:3", "here:", "here", "%", "nobody"):
            problem(operator.post(f"/workers/{gone}/drain"), 404, "worker-not-found")


LEVELS = ["info", "warning", "info", "warning"]


def test_log_lines_are_listed_by_level_and_in_pages(http: httpx.Client, stranger: httpx.Client, run: Run):
    run.record(2, logs=tuple(LogRecord(1 + i // 2, f"line {i}", level) for i, level in enumerate(LEVELS)))
    path = f"/trials/{run.id}/logs"

    def texts(**params: str | int) -> list[str]:
        return [line["text"] for line in ok(http.get(path, params=params))["items"]]

    assert texts() == ["line 0", "line 1", "line 2", "line 3"]
    assert texts(level="warning") == ["line 1", "line 3"]
    first = ok(http.get(path, params={"limit": 3}))
    assert [line["step"] for line in first["items"]] == [1, 1, 2]
    assert [line["level"] for line in first["items"]] == LEVELS[:3]
    assert texts(after=first["next_after"]) == ["line 3"]
    assert ok(http.get(path))["next_after"] is None
    problem(stranger.get(path), 404, "trial-not-found")
    problem(http.get(f"/trials/{uuid4()}/logs"), 404, "trial-not-found")
    problem(http.get(path, params={"level": "loud"}), 422, "validation-failed")


def test_a_trial_is_found_by_its_number(http: httpx.Client, study: str, submit):
    ids = [submit()["id"] for _ in range(3)]
    for number, expected in enumerate(ids):
        (found,) = ok(http.get(f"/studies/{study}/trials", params={"number": number}))["items"]
        assert found["id"] == expected
    assert ok(http.get(f"/studies/{study}/trials", params={"number": 3}))["items"] == []
