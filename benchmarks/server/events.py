"""Readers of a trial's event stream, who note when each event came and check that none is missing, doubled or late."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

from benchmarks.server.load import Client, Connection

OPEN_LIMIT = 30.0  # seconds until a stream that has not begun is given up
RETRY_SECONDS = 1.0  # until a refused reader, or one whose stream broke, asks again


class Stream(Connection):
    """An event stream. `event` gets the id and the type of each event."""

    def __init__(self, event: Callable[[int, bytes], None]) -> None:
        super().__init__()
        self._event = event
        self._text = bytearray()

    def piece(self, data: bytes) -> None:
        self._text += data
        while (end := self._text.find(b"\n\n")) >= 0:
            number, kind = None, b""
            for line in bytes(self._text[:end]).split(b"\n"):
                if line.startswith(b"id:"):
                    number = int(line[3:])
                elif line.startswith(b"event:"):
                    kind = line[6:].strip()
            del self._text[: end + 2]
            if number is not None:
                self._event(number, kind)


class Stalled(Connection):
    """A connection that stops reading when its answer begins."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.pause_reading()


@dataclass
class Reader:
    """Follows a trial to its end, as a client does: asks again after a refusal or a break, from the last event seen."""

    client: Client
    path: str
    last: int = 0
    ended: bool = False
    refused: int = 0  # answers other than 200, and streams that did not begin within `OPEN_LIMIT`
    broken: int = 0  # streams that ended before the trial, and were not cut here
    doubled: int = 0
    out_of_order: int = 0
    opened: float | None = None  # when the present stream began
    first_opened: float | None = None
    gaps: set[int] = field(default_factory=set)  # ids that were passed over and have not come
    ids: array[int] = field(default_factory=lambda: array("q"))
    times: array[float] = field(default_factory=lambda: array("d"))  # when each of `ids` came
    since: array[float] = field(default_factory=lambda: array("d"))  # when the stream had begun that brought it
    _stream: Stream | None = None
    _cut: bool = False

    async def run(self) -> None:
        """Read until the trial has ended."""
        while not self.ended:
            self.opened, self._cut = None, False
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": str(self.last)} if self.last else {})
            try:
                async with asyncio.timeout(OPEN_LIMIT):
                    self._stream = stream = await self.client.connect(lambda: Stream(self._event))
                    answer = await stream.request(self.client.message(self.path, headers))
            except (OSError, TimeoutError):
                answer = None
            if answer is None or answer.status != 200:
                self.refused += 1
            else:
                self.opened = monotonic()
                self.first_opened = self.first_opened or self.opened
                with suppress(ConnectionError):
                    await stream.end()
                self.broken += not (self.ended or self._cut)
            self.close()
            if not (self.ended or self._cut):
                await asyncio.sleep(RETRY_SECONDS)

    def cut(self) -> None:
        """Cut the stream. `run` opens it again."""
        self._cut = True
        self.close()

    def close(self) -> None:
        """Cut the connection."""
        if self._stream is not None:
            self._stream.close()

    def _event(self, number: int, kind: bytes) -> None:
        if kind == b"end":  # it has the number of the last event before it
            self.ended = True
            return
        if number > self.last:
            self.gaps.update(range(self.last + 1, number))
            self.last = number
        elif number in self.gaps:
            self.gaps.remove(number)
            self.out_of_order += 1
        else:
            self.doubled += 1
        self.ids.append(number)
        self.times.append(monotonic())
        self.since.append(self.opened or monotonic())
