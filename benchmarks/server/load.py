"""HTTP/1.1 on asyncio, as little of it as the load needs: with httpx, a thousand streams would measure the client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from time import monotonic
from types import MappingProxyType
from typing import TypeVar

from nestor.schemas import API

LIMIT = 60.0  # seconds after which a request without an answer is given up
NO_ANSWER = 0  # the status of such a request, and of one whose connection failed
BODILESS = (204, 304)

Address = tuple[str, int]
Headers = Mapping[str, str]
NO_HEADERS: Headers = MappingProxyType({})


@dataclass(frozen=True)
class Answer:
    """The answer to a request. `seconds` from its start, with the connection if that was opened for it."""

    status: int
    seconds: float
    size: int = 0  # bytes of the body as sent
    headers: Headers = field(default_factory=dict)  # names in lower case
    body: bytes = b""  # only if it was to be kept


class Connection(asyncio.Protocol):
    """One connection, for one request at a time. Subclasses get the pieces of a body as they arrive."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: Answer | None = None
        self._left: int | None = 0  # bytes of the body that have not arrived; None: it comes in chunks
        self._opened: asyncio.Future[Answer] | None = None
        self._ended: asyncio.Future[None] | None = None
        self.lost = False

    async def request(self, message: bytes) -> Answer:
        """Send the bytes of a request, and return when the head of its answer is there.

        Raises:
            ConnectionError: the server closed the connection.
        """
        if self.lost:
            raise ConnectionError
        loop = asyncio.get_running_loop()
        self._opened, self._ended, self._head, self._began = (
            loop.create_future(),
            loop.create_future(),
            None,
            monotonic(),
        )
        self._ended.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody may wait for it
        self.transport.write(message)
        return await self._opened

    async def end(self) -> None:
        """Wait for the end of the body.

        Raises:
            ConnectionError: the connection ended before.
        """
        assert self._ended is not None
        await self._ended

    def piece(self, data: bytes) -> None:
        """Take the next bytes of the body."""

    def close(self) -> None:
        """Cut the connection, whatever it was doing."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        for waiting in (self._opened, self._ended):
            if waiting is not None and not waiting.done():
                waiting.set_exception(ConnectionError())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0 or self._opened is None:
                return
            self._begin(bytes(self._buffer[:end]).decode("latin-1"))
            del self._buffer[: end + 4]
        if self._left is None:
            self._read_chunks()
        else:
            self._read_bytes(self._left)

    def _begin(self, head: str) -> None:
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first.split(" ", 2)[1])
        self._head = Answer(status, monotonic() - self._began, headers=headers)
        if status in BODILESS:
            self._left = 0
        elif headers.get("transfer-encoding") == "chunked":
            self._left = None
        else:
            self._left = int(headers.get("content-length", 0))
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(self._head)

    def _read_bytes(self, left: int) -> None:
        if self._buffer:
            self.piece(bytes(self._buffer))
            self._left = left = left - len(self._buffer)
            self._buffer.clear()
        if left <= 0:
            self._finish()

    def _read_chunks(self) -> None:
        buffer = self._buffer
        while (line := buffer.find(b"\r\n")) >= 0:
            size = int(bytes(buffer[:line]).split(b";")[0], 16)
            end = line + 2 + size
            if len(buffer) < end + 2:
                return
            if size:
                self.piece(bytes(buffer[line + 2 : end]))
            del buffer[: end + 2]
            if size == 0:
                return self._finish()

    def _finish(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)


class Download(Connection):
    """A connection that counts, and if asked keeps, the bytes of each body."""

    keep, size = False, 0

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []

    def piece(self, data: bytes) -> None:
        self.size += len(data)
        if self.keep:
            self.pieces.append(data)


C = TypeVar("C", bound=Connection)


@dataclass(frozen=True)
class Client:
    """A user's requests. New connections go to the addresses in turn, as behind a proxy."""

    addresses: Sequence[Address]
    token: str
    _turns: Iterator[Address] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_turns", cycle(self.addresses))

    async def connect(self, kind: Callable[[], C]) -> C:
        """A new connection.

        Raises:
            OSError: the server does not accept it.
        """
        host, port = next(self._turns)
        _, connection = await asyncio.get_running_loop().create_connection(kind, host, port)
        return connection

    def message(self, path: str, headers: Headers = NO_HEADERS, *, method: str = "GET", body: bytes = b"") -> bytes:
        """The bytes of a request. `path` is behind /api/v1."""
        fields = {"Host": "nestor", "Authorization": f"Bearer {self.token}", **headers}
        if body or method != "GET":
            fields["Content-Length"] = str(len(body))
        lines = [f"{method} {API}{path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + body

    def line(self) -> Line:
        """A connection for many requests."""
        return Line(self)


class Line:
    """A connection for requests one after another, opened by the first of them, and again when it was closed."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._connection: Download | None = None

    async def ask(
        self,
        path: str,
        headers: Headers = NO_HEADERS,
        *,
        method: str = "GET",
        body: bytes = b"",
        keep: bool = False,
        limit: float = LIMIT,
    ) -> Answer:
        """The whole answer. Its status is `NO_ANSWER` if none came within `limit` seconds, or the connection ended."""
        began = monotonic()
        message = self.client.message(path, headers, method=method, body=body)
        try:
            async with asyncio.timeout(limit):
                if self._connection is None or self._connection.lost:
                    self._connection = await self.client.connect(Download)
                connection = self._connection
                connection.keep, connection.size, connection.pieces = keep, 0, []
                head = await connection.request(message)
                await connection.end()
        except (OSError, TimeoutError):
            self.close()
            return Answer(NO_ANSWER, monotonic() - began)
        content = b"".join(connection.pieces)
        return Answer(head.status, monotonic() - began, connection.size, head.headers, content)

    async def post(self, path: str, content: object) -> Answer:
        """The answer to a POST of JSON."""
        body = json.dumps(content).encode()
        return await self.ask(path, {"Content-Type": "application/json"}, method="POST", body=body, keep=True)

    def close(self) -> None:
        """Cut the connection, whatever it was doing."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


Operation = Callable[[Line], Awaitable[Answer]]


async def at_once(client: Client, operation: Operation, n: int) -> list[Answer]:
    """The answers of `n` connections that are opened at once, each for one operation."""

    async def one() -> Answer:
        line = client.line()
        try:
            return await operation(line)
        finally:
            line.close()

    return await asyncio.gather(*(one() for _ in range(n)))


async def repeatedly(client: Client, operation: Operation, *, concurrency: int, seconds: float) -> list[Answer]:
    """The answers of `concurrency` connections, each of which repeats the operation until `seconds` have passed."""
    answers: list[Answer] = []
    end = monotonic() + seconds

    async def repeat() -> None:
        line = client.line()
        try:
            while True:
                answers.append(await operation(line))
                if monotonic() >= end:
                    return
        finally:
            line.close()

    await asyncio.gather(*(repeat() for _ in range(concurrency)))
    return answers


def getting(path: str, headers: Headers = NO_HEADERS, *, limit: float = LIMIT) -> Operation:
    """The operation of one GET."""
    return lambda line: line.ask(path, headers, limit=limit)


async def recovery(client: Client, path: str, *, within: float = 0.25, limit: float = LIMIT) -> float | None:
    """Seconds until a GET is answered with 200 in less than `within` seconds; None if none is until `limit`."""
    began, line = monotonic(), client.line()
    try:
        while monotonic() - began < limit:
            answer = await line.ask(path, limit=10.0)
            if answer.status == 200 and answer.seconds < within:
                return monotonic() - began
            await asyncio.sleep(0.05)
        return None
    finally:
        line.close()
