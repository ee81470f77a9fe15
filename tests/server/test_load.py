"""Load: what waits holds nothing, so many clients, slow ones and those that leave take nothing from the others."""

from __future__ import annotations

import asyncio
import inspect
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from fastapi import APIRouter
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from sqlalchemy import text

from nestor_server.routes import access, blobs, events, hyperparameters, problems, steps, studies, system, trials
from testbed.server import Server, running_server, wait_for
from testbed.services import Services
from tests.server.conftest import SPEC, ok
from tests.server.test_blobs import put

CONNECTIONS = 2
LINE = 400
PIPELINED = b"GET /healthz HTTP/1.1\r\nHost: nestor\r\n\r\n"


@pytest.fixture(scope="module")
def server(services: Services) -> Iterator[Server]:
    """A server that works on two requests at once."""
    few = {"request_connections": CONNECTIONS, "max_waiting_requests": LINE, "stall_seconds": 1, "reap_seconds": 0.1}
    with running_server(services, redis_db=3, log_reads=True, **few) as server:
        yield server


class Connection:
    """A connection on which a test sends and reads what it likes."""

    def __init__(self, server: Server, *, buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(60)
        self.socket.connect(("127.0.0.1", server.settings.port))
        self.token = server.token

    def send(self, method: str, path: str, *headers: str, token: bool = True, body: bytes = b"") -> Connection:
        lines = [f"{method} /api/v1{path} HTTP/1.1", "Host: nestor", "Connection: close", *headers]
        lines += [f"Authorization: Bearer {self.token}"] if token else []
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        return self

    def status(self) -> int:
        return int(self.read_until(b"\r\n").split()[1])

    def read_until(self, end: bytes) -> bytes:
        read = b""
        while not read.endswith(end):
            byte = self.socket.recv(1)
            assert byte, read
            read += byte
        return read

    def read_all(self) -> bytes:
        pieces = []
        while piece := self.socket.recv(2**16):
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        self.socket.close()


Connect = Callable[..., Connection]


@pytest.fixture
def connect(server: Server) -> Iterator[Connect]:
    """Opens connections, and closes them after the test."""
    with ExitStack() as opened:

        def connect(**options: Any) -> Connection:
            connection = Connection(server, **options)
            opened.callback(connection.close)
            return connection

        yield connect


@contextmanager
def stuck_database(server: Server) -> Iterator[None]:
    """No request gets further than its token while this holds."""
    with server.sessions.begin() as session:
        session.execute(text("LOCK TABLE tokens IN ACCESS EXCLUSIVE MODE"))
        yield


def waiting_for_tokens(server: Server) -> int:
    """The number of requests that work and wait for the table."""
    return connections(server, "pid IN (SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'tokens'::regclass)")


def connections(server: Server, where: str = "true") -> int:
    """The number of the server's connections for requests."""
    count = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'nestor-server' AND {where}"
    with server.sessions() as session:
        return session.scalar(text(f"{count} AND datname = current_database()")) or 0


def ports_of_clients(server: Server) -> set[int]:
    """The ports from which clients are connected."""
    assert server.process is not None
    found = psutil.Process(server.process.pid).net_connections("tcp")
    return {one.raddr[1] for one in found if one.laddr[1] == server.settings.port and one.raddr}


async def statuses(server: Server, path: str, n: int) -> Counter[int]:
    """The statuses of `n` requests that are sent at the same time, each on a connection of its own."""

    async def one() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.settings.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: nestor\r\nAuthorization: Bearer {server.token}\r\n\r\n".encode())
        status = int((await reader.readline()).split()[1])
        writer.close()
        return status

    return Counter(await asyncio.gather(*(one() for _ in range(n))))


def test_four_hundred_requests_at_once_are_all_answered_over_a_few_connections(server):
    with server.http() as http:
        study = ok(http.post("/studies", json={"name": "burst"}))["id"]
        trial = ok(http.post(f"/studies/{study}/trials", json=SPEC))["id"]
    assert asyncio.run(statuses(server, f"/api/v1/trials/{trial}", 400)) == {200: 400}
    assert connections(server) <= CONNECTIONS


def test_no_route_and_no_dependency_takes_a_thread_outside_the_gates():
    """FastAPI calls a plain function in a thread of its own pool, where requests would wait for one another."""
    checked = []

    def check(dependant: Dependant) -> None:
        assert inspect.iscoroutinefunction(dependant.call), dependant.call
        checked.append(dependant.call)
        for needed in dependant.dependencies:
            check(needed)

    for module in (access, blobs, events, hyperparameters, problems, steps, studies, system, trials):
        for router in [one for one in vars(module).values() if isinstance(one, APIRouter)]:
            for route in router.routes:
                assert isinstance(route, APIRoute)
                check(route.dependant)
    assert len(checked) > 40


def test_requests_beyond_the_line_are_refused_at_once_and_those_in_it_are_answered(server, connect):
    with stuck_database(server):
        waiting = [connect().send("GET", "/me") for _ in range(CONNECTIONS)]
        wait_for(lambda: waiting_for_tokens(server) == CONNECTIONS, "all connections to be in use")
        waiting += [connect().send("GET", "/me") for _ in range(LINE)]
        with server.http() as http:

            def is_refused() -> bool:
                try:
                    refused = http.get("/me", timeout=0.5)
                except httpx.ReadTimeout:  # the line had a place
                    return False
                document = refused.json()
                assert (refused.status_code, document["code"]) == (503, "server-busy")
                assert document["retryable"]
                assert int(refused.headers["Retry-After"]) > 0
                return True

            wait_for(is_refused, "the line to be full")
    assert {connection.status() for connection in waiting} == {200}


def test_readiness_and_the_reaper_do_not_wait_in_the_line(server, connect):
    lock = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'nestor-upkeep' AND state_change > now()"
    with stuck_database(server):
        waiting = [connect().send("GET", "/me") for _ in range(3 * CONNECTIONS)]
        wait_for(lambda: waiting_for_tokens(server) == CONNECTIONS, "all connections to be in use")
        for _ in range(3):
            assert httpx.get(server.url + "/readyz", trust_env=False, timeout=60).json()["checks"]["database"] == "ok"
            assert httpx.get(server.url + "/healthz", trust_env=False, timeout=60).status_code == 200
        with server.sessions() as session:
            began = session.scalar(text("SELECT clock_timestamp()"))

        def has_run() -> bool:
            with server.sessions() as session:
                return bool(session.scalar(text(lock.replace("now()", ":began")), {"began": began}))

        wait_for(has_run, "the reaper to run")
    assert {connection.status() for connection in waiting} == {200}
    assert "does not answer" not in server.log.read_text()


def test_a_request_whose_client_has_left_is_not_carried_out(server, connect):
    with server.http() as http:
        study = ok(http.post("/studies", json={"name": "kept"}))["id"]
        with stuck_database(server):
            waiting = [connect().send("GET", "/me") for _ in range(CONNECTIONS)]
            wait_for(lambda: waiting_for_tokens(server) == CONNECTIONS, "all connections to be in use")
            leaving = connect().send("DELETE", f"/studies/{study}")
            leaving.close()
        assert {connection.status() for connection in waiting} == {200}
        wait_for(lambda: f"DELETE /api/v1/studies/{study} 499" in server.log.read_text(), "its turn")
        assert ok(http.get(f"/studies/{study}"))["name"] == "kept"


def test_a_request_whose_client_leaves_while_it_works_is_cancelled(server, connect):
    """Its statement would take the time of the database, and a place of others, for nobody."""
    with server.http() as http:
        study = ok(http.post("/studies", json={"name": "kept, too"}))["id"]
        with stuck_database(server):
            requests = [("DELETE", f"/studies/{study}"), ("GET", "/studies")]
            leaving = [connect().send(method, path) for method, path in requests]
            wait_for(lambda: waiting_for_tokens(server) == CONNECTIONS, "both to wait for the database")
            for connection in leaving:
                connection.close()
            wait_for(lambda: waiting_for_tokens(server) == 0, "their statements to end")
        assert ok(http.get(f"/studies/{study}"))["name"] == "kept, too"
    assert f"DELETE /api/v1/studies/{study} 499" in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def test_readers_who_do_not_read_hold_no_connection_and_are_disconnected(server, connect):
    data = np.random.default_rng(0).bytes(12 * 2**20)
    with server.http() as http:
        path = f"/blobs/{put(http, data)}"
        readers = [connect(buffer=2**12).send("GET", path) for _ in range(5 * CONNECTIONS)]
        assert {reader.status() for reader in readers} == {200}  # the body follows, and nobody reads it
        for _ in range(20):
            ok(http.get("/me"))
        assert connections(server, "state = 'idle in transaction'") == 0
        assert http.get(path).content == data
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            ports = {reader.socket.getsockname()[1] for reader in readers}
            wait_for(lambda: not ports & ports_of_clients(server), "the readers to be disconnected")
            with pytest.raises(ConnectionResetError):
                readers[0].read_all()


def test_a_body_that_stops_arriving_is_a_408(server, connect):
    slow = connect().send("POST", "/studies", "Content-Type: application/json", "Content-Length: 100")
    slow.socket.sendall(b'{"name": ')
    assert slow.status() == 408
    assert b'"code":"body-stalled"' in slow.read_all()


def test_a_body_that_no_route_reads_and_that_stops_arriving_is_a_408_and_changes_nothing(server, connect):
    """It stops while the statement waits, which is cancelled."""
    with server.http() as http:
        path = f"/studies/{ok(http.post('/studies', json={'name': 'kept, as the answer says'}))['id']}"
        with server.sessions.begin() as session:
            session.execute(text("LOCK TABLE studies IN ACCESS EXCLUSIVE MODE"))
            slow = connect().send("DELETE", path, "Content-Length: 100")
            assert slow.status() == 408
        assert b'"code":"body-stalled"' in slow.read_all()
        assert ok(http.get(path))["name"] == "kept, as the answer says"


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: nes", PIPELINED + b"GET /"])
def test_a_client_that_sends_no_complete_head_is_disconnected(server, connect, sent):
    slow = connect()
    slow.socket.sendall(sent)
    assert slow.read_all().count(b"HTTP/1.1 200 OK") == sent.count(PIPELINED)


def test_an_answer_may_take_longer_than_a_client_may(server, connect):
    with server.http() as http:
        study = ok(http.post("/studies", json={"name": "patient"}))["id"]
        trial = ok(http.post(f"/studies/{study}/trials", json=SPEC))["id"]
    patient = connect().send("GET", f"/trials/{trial}/events?after=1&wait=3", "Accept: application/json")
    assert patient.status() == 200


@pytest.mark.parametrize("n", [3, 2000])  # in one piece of the parser, and in many
def test_requests_sent_in_one_piece_are_answered_in_their_order(server, connect, n):
    eager = connect()
    requests = [PIPELINED.replace(b"/healthz", b"/healthz" if i % 3 else b"/api/v1/nothing") for i in range(n)]
    eager.socket.sendall(b"".join(requests[:-1]) + requests[-1].replace(b"Host", b"Connection: close\r\nHost"))
    found = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", eager.read_all())]
    assert found == [200 if i % 3 else 404 for i in range(n)]


def test_a_body_may_follow_a_request_that_is_still_being_answered(server, connect):
    eager = connect()
    body = b'{"name": "eager", "user_attrs": {"a": "%s"}, "note": "%s"}' % (60_000 * b"a", 60_000 * b"b")
    eager.socket.sendall(5 * PIPELINED)
    eager.send("POST", "/studies", "Content-Type: application/json", f"Content-Length: {len(body)}", body=body)
    answers = eager.read_all()
    assert answers.count(b"HTTP/1.1 200 OK") == 5
    assert answers.count(b"HTTP/1.1 201 Created") == 1


def test_a_stream_ends_with_its_client_who_has_sent_more(server, connect):
    """uvicorn lets only the last request of a connection know. A stream before it failed with a traceback."""
    with server.http() as http:
        study = ok(http.post("/studies", json={"name": "left"}))["id"]
        trial = ok(http.post(f"/studies/{study}/trials", json=SPEC))["id"]
    path = f"/api/v1/trials/{trial}/events"
    stream = f"GET {path} HTTP/1.1\r\nHost: nestor\r\nAuthorization: Bearer {server.token}\r\n\r\n".encode()
    eager, logged = connect(), len(server.log.read_text())
    eager.socket.sendall(stream + PIPELINED)
    assert eager.status() == 200
    eager.close()
    with server.http() as http:
        ok(http.post(f"/trials/{trial}/pause"))  # so that the stream has something to send
    wait_for(lambda: f"GET {path} 200" in server.log.read_text(), "the stream to end")
    assert "Traceback" not in server.log.read_text()[logged:]


@pytest.mark.parametrize("path", ["/healthz", "/api/v1/me"])
def test_what_a_client_sends_ahead_takes_no_memory_of_the_server(server, connect, path):
    """Each parsed request takes some kilobytes: a client that read no answers could fill the server's memory."""
    memory = lambda: psutil.Process(server.process.pid).memory_info().rss
    before, flood = memory(), connect(buffer=2**12).socket
    flood.setblocking(False)
    request = f"GET {path} HTTP/1.1\r\nHost: nestor\r\nAuthorization: Bearer {server.token}\r\n\r\n".encode()
    left, refused = memoryview(2**26 // len(request) * request), 0
    with server.http() as http:
        while len(left) and refused < 20:
            try:
                left = left[flood.send(left[: 2**18]) :]
                refused = 0
            except BlockingIOError:
                refused += 1
                ok(http.get("/me"))  # the server had time to read
            except ConnectionResetError:  # after `stall_seconds`, because nobody reads the answers
                break
        for _ in range(20):
            ok(http.get("/me"))
    assert memory() - before < 32e6


@pytest.mark.parametrize("path", ["/studies", "/programs", "/blobs", "/tokens"])
def test_the_body_of_a_stranger_is_not_waited_for(server, path, connect):
    stranger = connect().send("POST", path, "Content-Length: 10000000", token=False)
    assert stranger.status() == 401


@pytest.mark.parametrize("path", ["/studies?limit=0", "/trials/none", "/studies?cursor=%00", "/trials/x/steps"])
def test_a_stranger_learns_of_no_other_mistake(server, path):
    with server.http("nst_unknown") as http:
        assert http.get(path).status_code == 401


def test_a_flood_of_abandoned_requests_does_not_stop_the_server(server):
    """A client sends requests and leaves, again and again."""

    def flood() -> None:
        for _ in range(1000):
            connection = Connection(server).send("GET", "/studies")
            connection.close()

    with ThreadPoolExecutor(1) as flooding, server.http() as http:
        flooded = flooding.submit(flood)
        for _ in range(20):
            ok(http.get("/me"))
        flooded.result()
        ok(http.get("/me"))
    assert connections(server) <= CONNECTIONS
