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

import httpx
import psutil
import pytest

from nestor.schemas import API
from nestor.schemas.base import EXAMPLE_DIGEST
from testbed.contract import document
from testbed.server import Server, running_server, wait_for
from testbed.services import Services

MIB = 2**20
FLOOD = 16 * MIB
SIZE = MIB - 1024  # of a hostile body: as many bytes as are taken
JSON = "application/json"
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
        with server.http() as http:  # what is made once is made before anything is measured
            for _ in range(20):
                http.post("/studies", content=honest(), headers={"Content-Type": JSON})
                http.get("/studies")
        yield server


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
    names = list(document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["properties"])
    return ("{" + ",".join(f'"{name}":{kind(SIZE // len(names) - 40)}' for name in names) + "}").encode()


def path_of(path: str) -> str:
    """A path of the API with ids of nothing."""
    return path.format_map(_Ids())


class _Ids(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return str(uuid4())
