"""GET /activity: the trials of all studies of a user in a few counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from nestor.schemas import State
from nestor_server.services import activity
from testbed.server import Server, wait_for
from tests.server.conftest import Run, ok
from tests.server.test_lists import insert

LONG_AGO = datetime.now(UTC) - activity.RECENT - timedelta(minutes=1)


def failed(at: datetime) -> dict[str, Any]:
    return {"state": "failed", "finished_at": at}


def test_nothing_goes_on_without_a_study(http):
    found = ok(http.get("/activity"))
    assert (found["studies"], found["trial_counts"], found["failed_recently"]) == (0, {}, 0)


def test_trials_of_all_studies_that_are_not_deleted_are_counted(server: Server, http: httpx.Client, stranger):
    studies = [ok(http.post("/studies", json={"name": f"s{n}"}))["id"] for n in range(4)]
    now = datetime.now(UTC)
    insert(server, studies[0], {"state": "complete"}, {"state": "queued"}, failed(now), failed(LONG_AGO))
    insert(server, studies[1], {"state": "complete"}, {"state": "complete"}, failed(now))
    insert(server, studies[2], {"state": "paused"}, failed(now))
    ok(http.delete(f"/studies/{studies[2]}"))
    found = ok(http.get("/activity"))
    assert found["studies"] == 3
    assert found["trial_counts"] == {"complete": 3, "queued": 1, "failed": 3}
    assert found["failed_recently"] == 2
    assert ok(stranger.get("/activity"))["trial_counts"] == {}


def test_a_trial_that_was_retried_has_not_failed(http, run: Run):
    counts = lambda: (ok(http.get("/activity"))["failed_recently"], ok(http.get("/activity"))["trial_counts"])
    assert counts() == (0, {"running": 1})
    run.record(1)
    run.checkpoint()
    run.finish(State.failed, {"code": "diverged"})
    assert counts() == (1, {"failed": 1})
    ok(http.post(f"{run.path}/retry"))
    assert counts() == (0, {"queued": 1})


def test_of_very_many_failures_the_newest_are_counted(server, http, study):
    insert(server, study, *(failed(datetime.now(UTC)) for _ in range(activity.MAX_FAILED + 1)))
    found = ok(http.get("/activity"))
    assert found["trial_counts"] == {"failed": activity.MAX_FAILED + 1}
    assert found["failed_recently"] == activity.MAX_FAILED


def test_the_queue_and_the_workers_are_those_of_the_list_of_workers(http, stranger, submit):
    submit()
    here, there, listed = ok(http.get("/activity")), ok(stranger.get("/activity")), ok(http.get("/workers"))
    assert 0 < here["queued"] <= there["queued"] <= listed["queued"]  # leases of other tests expire meanwhile
    assert here["workers"] == len(listed["items"])


def test_a_client_that_has_seen_it_gets_304_until_something_happens(http, submit):
    answer = http.get("/activity")
    seen = {"If-None-Match": answer.headers["ETag"]}
    trial = submit()
    assert http.get("/activity", headers=seen).status_code == 200
    ok(http.post(f"/trials/{trial['id']}/cancel"))

    def is_unchanged() -> bool:
        seen = {"If-None-Match": http.get("/activity").headers["ETag"]}
        return http.get("/activity", headers=seen).status_code == 304

    wait_for(is_unchanged, "a moment in which no lease of another test expires")
