"""The server as a process: how it reports its services, and works without some of them."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import redis
from sqlalchemy import text

import nestor_server
from nestor.schemas import Scope
from nestor_server.models import Worker
from nestor_server.scheduling.task_queue import QUEUE
from testbed.server import free_port, running_server, wait_for
from tests.server.conftest import SPEC, Run, ok, problem

DASHBOARD = Path(nestor_server.__file__).parent / "dashboard"


def get(server, path: str, **options: Any) -> httpx.Response:
    return httpx.get(server.url + path, timeout=60, trust_env=False, follow_redirects=True, **options)


def test_a_server_with_all_its_services_is_ready(server):
    assert get(server, "/healthz").json() == {"status": "ok", "checks": {}}
    ready = get(server, "/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ok")
    assert set(ready.json()["checks"]) == {"database", "migrations", "broker"}
    assert get(server, "/api/v1/version").json()["api"] == "v1"


def test_the_api_describes_itself_and_its_errors(server):
    document = get(server, "/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    create = document["paths"]["/api/v1/studies/{study_id}/trials"]["post"]
    assert "application/problem+json" in create["responses"]["default"]["content"]


def test_the_description_is_sent_compressed_and_only_if_it_has_changed(server):
    description = get(server, "/openapi.json")
    assert (description.headers["Content-Encoding"], description.headers["Content-Type"]) == (
        "gzip",
        "application/json",
    )
    plain = get(server, "/openapi.json", headers={"Accept-Encoding": "identity"})
    assert plain.content == description.content
    assert plain.headers["ETag"] != description.headers["ETag"]
    for one in (plain, description):
        unchanged = get(server, "/openapi.json", headers={"If-None-Match": one.headers["ETag"]})
        assert (unchanged.status_code, unchanged.content) == (304, b"")


def test_the_page_may_load_nothing_from_elsewhere(server):
    page = get(server, "/")
    assert "<title>Nestor</title>" in page.text
    assert page.headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert get(server, "/docs").is_success
    files = [path for path in DASHBOARD.rglob("*") if path.is_file()]
    assert len(files) > 50
    for file in files:
        assert get(server, f"/{file.relative_to(DASHBOARD)}").is_success


@pytest.fixture
def troubled(services):
    """A server for tests that break it or its database."""
    with running_server(
        services, redis_db=4, reap_seconds=0.2, requeue_after_seconds=0.5, stream_poll_seconds=0.5
    ) as server:
        yield server


def test_without_its_broker_it_accepts_trials_and_notifies_a_worker_later(services):
    with running_server(services, redis_url=f"redis://127.0.0.1:{free_port()}/0", wait_on="/healthz") as server:
        ready = get(server, "/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"] == {"database": "ok", "migrations": "ok", "broker": "does not answer"}
        with server.http() as http:
            study = ok(http.post("/studies", json={"name": "s"}))["id"]
            began = time.monotonic()
            assert ok(http.post(f"/studies/{study}/trials", json=SPEC))["state"] == "queued"
            assert time.monotonic() - began < 5


def test_a_message_that_was_lost_is_sent_again_while_a_worker_idles(troubled):
    with troubled.sessions.begin() as session:
        session.add(Worker(id="idle:1", device="cpu", versions={}))
    with troubled.http() as http, redis.Redis.from_url(troubled.settings.redis_url) as broker:
        study = ok(http.post("/studies", json={"name": "s"}))["id"]
        ok(http.post(f"/studies/{study}/trials", json=SPEC))
        broker.flushdb()
        wait_for(lambda: broker.llen(QUEUE), "the reaper")


def test_a_trial_whose_worker_stopped_its_heartbeat_is_queued_again(troubled):
    with troubled.http() as http:
        study = ok(http.post("/studies", json={"name": "s"}))["id"]
        run = Run(troubled, UUID(ok(http.post(f"/studies/{study}/trials", json=SPEC))["id"]))
        run.record(3)
        with troubled.sessions.begin() as session:
            session.execute(text("UPDATE trials SET lease_expires_at = now() - interval '1 second'"))
        wait_for(lambda: ok(http.get(run.path))["state"] == "queued", "the reaper")
        run.claim()
        assert ok(http.get(run.path))["attempt"] == 2


def test_a_database_outage_is_a_503_that_may_be_retried(troubled):
    """The database refuses and cuts connections; the server recovers by itself."""
    from sqlalchemy import create_engine, make_url

    url = make_url(troubled.settings.database_url)
    elsewhere = create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with troubled.http() as http, elsewhere.connect() as other:
        ok(http.get("/me"))
        other.execute(text(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS false"))
        cut = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{url.database}'"
        other.execute(text(cut))
        try:
            response = http.get("/me")
            document = problem(response, 503, "unavailable")
            assert document["retryable"]
            assert response.headers["Retry-After"]
            assert "password" not in response.text
            is_known = lambda: get(troubled, "/readyz").json()["checks"]["database"] == "does not answer"
            wait_for(is_known, "the result of the last check to expire")
            assert get(troubled, "/healthz").status_code == 200
        finally:
            other.execute(text(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS true"))
        ok(http.get("/me"))
        study = ok(http.post("/studies", json={"name": "s"}))["id"]
        run = Run(troubled, UUID(ok(http.post(f"/studies/{study}/trials", json=SPEC))["id"]))
        with troubled.sessions.begin() as session:
            session.execute(text("UPDATE trials SET lease_expires_at = now() - interval '1 second'"))
        wait_for(lambda: ok(http.get(run.path))["state"] == "queued", "the reaper, which lived on")
    elsewhere.dispose()


def test_an_old_database_is_not_ready_and_the_check_says_what_to_do(troubled):
    with troubled.sessions.begin() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    wait_for(lambda: get(troubled, "/readyz").status_code == 503, "the result of the last check to expire")
    ready = get(troubled, "/readyz")
    assert "nestor migrate" in ready.json()["checks"]["migrations"]


def test_an_unexpected_failure_shows_the_user_only_the_request_id(troubled):
    with troubled.sessions.begin() as session:
        session.execute(text("ALTER TABLE studies RENAME COLUMN tags TO gone"))
    with troubled.http() as http:
        response = http.get("/studies")
    document = problem(response, 500, "nestor-error")
    assert "gone" not in response.text
    assert "SELECT" not in response.text
    assert document["request_id"] in troubled.log.read_text()
    assert "UndefinedColumn" in troubled.log.read_text()


def test_a_stopped_server_ends_its_streams_and_exits_at_once(troubled):
    token = troubled.new_token(scope=Scope.write)
    with troubled.http(token) as http:
        study = ok(http.post("/studies", json={"name": "s"}))["id"]
        trial = ok(http.post(f"/studies/{study}/trials", json=SPEC))["id"]
        with http.stream("GET", f"/trials/{trial}/events") as response:
            lines = response.iter_lines()
            next(lines)
            stopping = threading.Thread(target=troubled.stop, args=[signal.SIGTERM])
            began = time.monotonic()
            stopping.start()
            list(lines)  # ends, and is no error
            stopping.join()
        assert time.monotonic() - began < 4
    troubled.start()
    with troubled.http(token) as http:
        assert ok(http.get(f"/trials/{trial}"))["state"] == "queued"
