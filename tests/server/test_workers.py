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
