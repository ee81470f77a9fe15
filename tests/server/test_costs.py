"""What a request may cost: nothing before it is known who sends it, and then as much as its bytes.

The routes are those of /openapi.json, so a new one is among them. Time is that of the server's processor, which does
not depend on what else the machine does, and is compared with that of an honest body of the same size.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from sqlalchemy import update

from nestor.schemas import API
from nestor.schemas.base import EXAMPLE_DIGEST
from nestor_server.models import Study, Trial
from testbed.contract import document
from testbed.server import Server, running_server
from testbed.services import Services
from tests.server.conftest import SPEC, ok, problem
from tests.server.test_blobs import put

MIB = 2**20
FLOOD = 16 * MIB
SIZE = MIB - 1024  # of a hostile body: as many bytes as are taken
JSON = "application/json"
TYPE = {"Content-Type": JSON}
STRANGER_SECONDS, STRANGER_BYTES = 0.05, 20 * MIB
MEMORY = 64  # bytes for each byte of a body: Python's lists and dictionaries take so much
BROKER = 3

Operation = tuple[str, str]
OPERATIONS: list[Operation] = [
    (method.upper(), path) for path, operations in document()["paths"].items() for method in operations
]
WITH_BODY = {
    (method.upper(), path): operation["requestBody"]["content"][JSON]["schema"]
    for path, operations in document()["paths"].items()
    for method, operation in operations.items()
    if JSON in operation.get("requestBody", {}).get("content", {})
}


@pytest.fixture(scope="module")
def server(services: Services) -> Iterator[Server]:
    with running_server(services, redis_db=BROKER) as server:
        yield server


@pytest.fixture(scope="module")
def honest_seconds(server: Server) -> float:
    """What the largest honest body takes, when all is made that is made once."""
    with server.http() as http:
        for _ in range(2):
            ok(http.post("/datasets", content=honest(), headers=TYPE))
        with measured(server) as cost:
            for _ in range(5):
                ok(http.post("/datasets", content=honest(), headers=TYPE))
    return cost.seconds / 5


# --- measuring ------------------------------------------------------------------------------------


@dataclass
class Cost:
    seconds: float = 0.0  # of the processor
    nbytes: int = 0  # by which the memory of the server was larger at its peak


@contextmanager
def measured(server: Server) -> Iterator[Cost]:
    assert server.process is not None
    process, cost = psutil.Process(server.process.pid), Cost()
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # forgets the peak
    before, memory = processor_seconds(process), peak(process.pid)
    yield cost
    cost.seconds, cost.nbytes = processor_seconds(process) - before, peak(process.pid) - memory


def processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


# --- bodies ---------------------------------------------------------------------------------------


def honest(size: int = SIZE) -> bytes:
    """A data set by reference, of as many columns as fit: the largest body that clients send."""
    column = {"source": "pixels", "dtype": "F32", "shape": [60_000, 784]}
    n = (size - 20_000) // (len(json.dumps({"x00000": column})) + 2)
    columns = iter(range(n))
    files = [
        {"uri": f"file:///data/{i}.safetensors", "digest": EXAMPLE_DIGEST, "columns": dict.fromkeys(
            (f"x{k:05}" for k, _ in zip(columns, range(1000), strict=False)), column)}
        for i in range(-(-n // 1000))
    ]  # fmt: skip
    body = {"train": {"files": files[::2]}, "val": {"files": files[1::2]}}
    return json.dumps(body).encode().ljust(size)


def dense(n: int) -> str:
    """More values than are taken."""
    return f"[{','.join('1' * (n // 2))}]"


def deep(n: int) -> str:
    return "[" * 50_000 + "]" * 50_000


def levels(n: int) -> str:
    """As deep as is allowed, again and again."""
    return listed("[" * 50 + "]" * 50, n)


def listed(one: str, n: int) -> str:
    """A list of as many of these as are taken: a body may have a value for each eight bytes."""
    values = 1 + sum(map(one.count, "[{,"))
    return f"[{','.join([one.rjust(9 * values)] * (n // (max(len(one), 9 * values) + 1)))}]"


def wide(n: int) -> str:
    return listed("[]", n)


def numbers(n: int) -> str:
    return listed("1", n)


def shape(n: int) -> str:
    return listed("9", min(n, 300_000))


def long_keys(n: int) -> str:
    """A third of the bytes are a key, and the others many values below it."""
    return '{"' + "k" * (n // 3) + f'": {numbers(2 * n // 3 - 8)}}}'


def many_keys(n: int) -> str:
    return "{" + ",".join(f'"{i:05x}":0' for i in range(n // 10)) + "}"


def huge_integers(n: int) -> str:
    return listed("9" * 4_200, n)


def long_text(n: int) -> str:
    return json.dumps("x" * (n - 2))


def empty_texts(n: int) -> str:
    return listed('""', n)


def objects(n: int) -> str:
    return listed('{"":0}', n)


HOSTILE: list[Callable[[int], str]] = [
    dense, deep, levels, wide, numbers, shape, long_keys, many_keys, huge_integers, long_text, empty_texts, objects,
]  # fmt: skip


def hostile(schema: dict[str, Any], kind: Callable[[int], str]) -> bytes:
    """A body in which each field that the route takes is of this kind."""
    model = next(one["$ref"] for one in schema.get("anyOf", [schema]) if "$ref" in one).rpartition("/")[2]
    names = list(document()["components"]["schemas"][model]["properties"])
    return ("{" + ",".join(f'"{name}":{kind(SIZE // len(names) - 40)}' for name in names) + "}").encode()


def path_of(path: str) -> str:
    """A path of the API with ids of nothing."""
    return path.format_map(_Ids())


class _Ids(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return str(uuid4())


# --- strangers ------------------------------------------------------------------------------------


def answered(server: Server, method: str, path: str, body: bytes) -> tuple[int, float]:
    """The status of a request without a token, and the seconds from its first byte to that of the answer."""
    with socket.create_connection(("127.0.0.1", server.settings.port), timeout=60) as connection:
        head = f"{method} {path} HTTP/1.1\r\nHost: n\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\n\r\n"
        began = time.perf_counter()
        connection.sendall(head.encode() + body[:1000])
        status = int(connection.recv(4096).split()[1])
        seconds = time.perf_counter() - began
        connection.sendall(body[1000:])
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: n\r\n\r\n")  # answered when the body is gone
        while b"200 OK" not in connection.recv(4096):
            pass
    return status, seconds


def test_a_stranger_costs_nothing_whatever_they_send_to_any_route(server: Server):
    """One request without a token took 40 seconds of the server, or 2 GB of its memory."""
    flood = (wide(FLOOD) + " " * FLOOD)[:FLOOD].encode()
    with_token = 0
    for method, path in [*OPERATIONS, ("POST", "/nowhere"), ("PUT", f"{API}/studies"), ("POST", "/healthz")]:
        with measured(server) as cost:
            status, seconds = answered(server, method, path_of(path), flood)
            again = 3
            while seconds > STRANGER_SECONDS and again:  # another process may have had the processor
                seconds, again = answered(server, method, path_of(path), flood[:2000])[1], again - 1
        with_token += status == 401
        assert status < 500 or path == "/readyz", f"{method} {path}: {status}"
        assert seconds < STRANGER_SECONDS, f"{method} {path} took {seconds:.3f} s"
        assert cost.nbytes < STRANGER_BYTES, f"{method} {path} took {cost.nbytes / MIB:.0f} MiB"
    assert with_token > 0.8 * len(OPERATIONS)


def is_taken(connection: socket.socket, data: bytes) -> bool:
    """Whether the server reads it all, and leaves the connection open."""
    try:
        connection.sendall(data)
        while connection.recv(4096):  # an answer may arrive before the connection ends
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return True
    return False


HEADS = {
    "a long header": b"GET /healthz HTTP/1.1\r\nHost: n\r\nX: " + b"a" * FLOOD,
    "many headers": b"GET /healthz HTTP/1.1\r\nHost: n\r\n" + b"a: b\r\n" * (FLOOD // 6),
    "a long address": b"GET /" + b"a" * FLOOD,
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_head_has_an_end(server: Server, head: bytes):
    """A header of 32 MiB took 37 s of the processor, and many small ones 240 MiB."""
    with measured(server) as cost, socket.create_connection(("127.0.0.1", server.settings.port), timeout=60) as sent:
        assert not is_taken(sent, head)
    assert cost.seconds < 0.5
    assert cost.nbytes < STRANGER_BYTES


def test_a_token_is_all_that_a_stranger_can_have_read(server: Server):
    same_site = TYPE | {"X-Nestor-Request": "1"}
    with server.http(None) as http:
        body = {"token": server.token}
        assert http.post("/session", json=body, headers=same_site).status_code == 200
        large = http.post("/session", json=body | {"x": "y" * 10_000}, headers=same_site)
        document = problem(large, 413, "strangers-body-too-large")
    assert "4096" in document["detail"]


# --- users ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), WITH_BODY)
def test_a_hostile_body_costs_no_more_than_an_honest_one(server: Server, honest_seconds: float, method: str, path: str):
    """A list of 5 MB took 40 s, and 160 kB of a long key with many values below it 2.2 GB."""
    with server.http(server.new_token()) as http:
        for kind in HOSTILE:
            body = hostile(WITH_BODY[method, path], kind)
            with measured(server) as cost:
                answer = http.request(method, path_of(path).removeprefix(API), content=body, headers=TYPE)
            where = f"{method} {path} with {kind.__name__}: {answer.status_code}"
            assert 400 <= answer.status_code < 500, where
            assert len(answer.content) < 25_000, where
            assert cost.seconds < 2 * honest_seconds, f"{where} took {cost.seconds:.2f} s, not {honest_seconds:.2f}"
            assert cost.nbytes < MEMORY * SIZE, f"{where} took {cost.nbytes / MIB:.0f} MiB"


def test_a_body_above_the_limit_is_refused_with_the_setting(server: Server):
    with server.http(server.new_token()) as http:
        answer = http.post("/studies", content=b" " * (MIB + 1), headers=TYPE)
        document = problem(answer, 413, "too-large")
        assert "1048576" in document["detail"]
        assert "NESTOR_MAX_JSON_BYTES" in document["detail"]
        assert ok(http.post("/datasets", content=honest().ljust(3 * MIB), headers=TYPE))["id"]  # its route takes more


# --- files ----------------------------------------------------------------------------------------


def header(entries: dict[str, Any]) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def tensor(shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


FILES = {
    "a shape of 150,000 entries": header({"x": tensor([9] * 150_000, 0, 4)}) + b"\0" * 4,
    "a shape of huge entries": header({"x": tensor([10**4_000] * 120, 0, 4)}) + b"\0" * 4,
    "a shape above all files": header({"x": tensor([2**62] * 16, 0, 4)}) + b"\0" * 4,
    "150,000 tensors": header({f"{i:x}": tensor([0], 0, 0) for i in range(150_000)}),
    "2,000 tensors of one number": header({f"x{i}": tensor([1], 4 * i, 4 * i + 4) for i in range(2_000)})
    + b"\0" * 8_000,
}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_a_file_is_checked_in_time_proportional_to_its_bytes(server: Server, honest_seconds: float, data: bytes):
    """A shape of 150,000 entries took 2.7 s in which nothing else was answered, and 2,000 tensors took 215 s."""
    with server.http(server.new_token()) as http:
        digest = put(http, data)
        for path, body in {
            "/datasets": {"train": digest, "val": digest},
            "/programs": {"graphs": digest, "tensors": digest},
        }.items():
            with measured(server) as cost:
                answer = http.post(path, json=body)
            assert answer.status_code < 500, answer.text
            assert len(answer.content) < 5_000
            allowed = 2 * honest_seconds * (1 + len(data) / MIB)
            assert cost.seconds < allowed, f"{cost.seconds:.2f} s for {len(data)} bytes"
            assert cost.nbytes < MEMORY * (MIB + len(data))


# --- attributes -----------------------------------------------------------------------------------


def test_attributes_are_bounded_however_they_come(server: Server):
    """15 MiB of attributes in each of 12 studies made one list of 180 MiB."""
    limit, half = 64_000, {"a": "x" * 40_000}
    with server.http(server.new_token()) as http:
        study = ok(http.post("/studies", json={"name": "s", "user_attrs": half}))
        trial = ok(http.post(f"/studies/{study['id']}/trials", json=SPEC | {"user_attrs": half}))
        large = {"user_attrs": {"b": "x" * limit}}
        problem(http.post("/studies", json={"name": "t"} | large), 422, "validation-failed")
        problem(http.post(f"/studies/{study['id']}/trials", json=SPEC | large), 422, "validation-failed")
        for path in (f"/studies/{study['id']}", f"/trials/{trial['id']}"):
            for field in ("user_attrs", "set_user_attrs"):
                error = problem(http.patch(path, json={field: {"b": "x" * 40_000}}), 422, "attributes-too-large")
                assert "64000" in error["detail"]
                assert ok(http.get(path))["user_attrs"] == half
            ok(http.patch(path, json={"user_attrs": {"a": None}, "set_user_attrs": {"b": "x" * 40_000}}))


def test_attributes_of_an_earlier_version_can_be_read_and_made_smaller(server: Server):
    with server.http(server.new_token()) as http:
        study = ok(http.post("/studies", json={"name": "s"}))
        trial = ok(http.post(f"/studies/{study['id']}/trials", json=SPEC))
        landed = {"a": "x" * 70_000, "b": "y" * 70_000}
        with server.sessions.begin() as session:
            session.execute(update(Study).where(Study.id == study["id"]).values(user_attrs=landed))
            session.execute(
                update(Trial)
                .where(Trial.id == trial["id"])
                .values(user_attrs=landed, spec=Trial.spec.op("||")({"user_attrs": landed}))
            )
        for path in (f"/studies/{study['id']}", f"/trials/{trial['id']}"):
            assert ok(http.get(path))["user_attrs"] == landed
            assert ok(http.patch(path, json={"tags": ["t"], "user_attrs": {"a": None}}))["user_attrs"].keys() == {"b"}
            problem(http.patch(path, json={"user_attrs": {"c": "x" * 70_000}}), 422, "attributes-too-large")
        assert len(ok(http.get("/studies"))["items"]) == 1
