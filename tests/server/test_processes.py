"""Several server processes on one database: `nestor server --workers N`, and servers behind one address."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import httpx
import psutil
import pytest
from sqlalchemy import text

from nestor_server.serve import HEALTHCHECK_SECONDS
from testbed.server import Server, running_server, serving, wait_for
from testbed.services import Services
from testbed.worker import command
from tests.server.conftest import SPEC, Run, ok
from tests.server.test_events import events

N_STREAMS = 12


@pytest.fixture(scope="module")
def server(services: Services) -> Iterator[Server]:
    """A server of two processes, which a test may kill one of."""
    with running_server(services, redis_db=3, server_workers=2, reap_seconds=0.1) as server:
        yield server


def processes(server: Server) -> list[psutil.Process]:
    """The processes that serve the port."""
    assert server.process is not None
    children = psutil.Process(server.process.pid).children()
    return [child for child in children if b"spawn_main" in command(child.pid)]


def n_clients(server: Server) -> list[int]:
    """The number of connections of each process."""
    counts = []
    for process in processes(server):
        found = process.net_connections("tcp")
        counts.append(sum(bool(one.raddr) and one.laddr[1] == server.settings.port for one in found))
    return counts


def new_run(server: Server, http: httpx.Client) -> Run:
    study = ok(http.post("/studies", json={"name": "s", "load_if_exists": True}))["id"]
    return Run(server, UUID(ok(http.post(f"/studies/{study}/trials", json=SPEC))["id"]))


def test_streams_of_both_processes_get_every_event(server):
    with server.http() as http:
        run = new_run(server, http)
        run.record(3)

        def numbers(_: int) -> list[int]:
            with server.http() as reader:
                return [data["number"] for _, kind, data in events(reader, run.path) if kind == "step"]

        with ThreadPoolExecutor(N_STREAMS) as readers:
            seen = readers.map(numbers, range(N_STREAMS))
            wait_for(lambda: sum(n_clients(server)) >= N_STREAMS, "the streams to open")
            for _ in range(10):
                run.record(1)
            run.finish()
            assert list(seen) == [list(range(1, 14))] * N_STREAMS


def test_a_token_that_is_revoked_in_one_process_is_unknown_in_all(server):
    with server.http() as http:
        token = ok(http.post("/tokens", json={"name": "short"}))
        clients = [server.http(token["token"]) for _ in range(N_STREAMS)]
        assert {client.get("/me").status_code for client in clients} == {200}
        assert http.delete(f"/tokens/{token['id']}").status_code == 204
        assert {client.get("/me").status_code for client in clients} == {401}
        for client in clients:
            client.close()


def test_a_lease_that_expires_is_taken_once(server):
    with server.http() as http:
        run = new_run(server, http)
        with server.sessions.begin() as session:
            session.execute(text("UPDATE trials SET lease_expires_at = now() - interval '1 second'"))
        wait_for(lambda: ok(http.get(run.path))["state"] == "queued", "a reaper")
        states = [data["state"] for _, kind, data in json_events(http, run) if kind == "state"]
        assert states == ["queued", "running", "queued"]
        assert ok(http.get(run.path))["restarts"] == 1


def json_events(http: httpx.Client, run: Run) -> list[tuple[int, str, dict]]:
    items = ok(http.get(f"{run.path}/events", headers={"Accept": "application/json"}))["items"]
    return [(item["seq"], item["type"], item["data"]) for item in items]


def test_a_process_that_is_killed_is_replaced(server):
    before = {process.pid for process in processes(server)}
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    # If it is killed while it is asked whether it lives, its answer is awaited for a while.
    patience = HEALTHCHECK_SECONDS + 60
    wait_for(lambda: len({one.pid for one in processes(server)} - {killed}) == 2, "another process", seconds=patience)
    wait_for(lambda: server.log.read_text().count("Application startup complete") == 3, "its start")
    with server.http() as http:
        for _ in range(10):
            ok(http.get("/me"))


@pytest.fixture
def ending(services: Services) -> Iterator[Server]:
    """Another one, for tests that end it."""
    with running_server(services, redis_db=3, server_workers=2) as server:
        yield server


def test_a_stop_ends_the_streams_of_all_processes_and_exits_with_zero(ending):
    server = ending
    with server.http() as http, ThreadPoolExecutor(N_STREAMS) as readers:
        run = new_run(server, http)

        begun: list[int] = []

        def read(number: int) -> int:
            with server.http() as reader:
                return len([begun.append(number) for _ in events(reader, run.path)])

        seen = readers.map(read, range(N_STREAMS))
        wait_for(lambda: len(begun) == 2 * N_STREAMS, "each stream to send what there is: queued and running")
        assert server.stop() == 0
        assert list(seen) == [2] * N_STREAMS  # they ended, which is no error


def test_no_process_outlives_a_killed_parent(ending):
    server = ending
    children = processes(server)
    assert len(children) == 2
    server.stop(signal.SIGKILL)
    gone, alive = psutil.wait_procs(children, timeout=60)
    assert (len(gone), alive) == (2, [])


def test_two_servers_on_one_database_show_the_same(services: Services):
    """As behind a load balancer: one records what the other streams, and each answers for any trial."""
    with running_server(services, redis_db=3) as first:
        urls = {"database_url": first.settings.database_url, "redis_url": first.settings.redis_url}
        with serving(urls) as second, first.http() as here, second.http(first.token) as there:
            run = new_run(first, here)
            stream = events(there, run.path)
            assert [next(stream)[1] for _ in range(2)] == ["state", "state"]
            run.record(2)
            assert [next(stream)[2]["number"] for _ in range(2)] == [1, 2]
            assert ok(there.post(f"{run.path}/pause"))["desired"] == "pause"
            assert ok(here.get(run.path))["desired"] == "pause"
            assert here.get(run.path).headers["ETag"] == there.get(run.path).headers["ETag"]
