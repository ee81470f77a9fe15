"""One client's connection: what the client sends after a request waits, unparsed, for the answer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sized
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

PIECE = 4096  # bytes that are parsed at once, some twenty requests
MAX_HEAD_BYTES = 2**17  # of a request: its address and its headers


class _Flow(FlowControl):
    """Reads nothing while parsed requests wait. uvicorn reads on at each answer, and when it looks for a disconnect."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, with bounds on what a client can make it hold.

    A client may send many requests without waiting for their answers. Few of them are parsed at a time: those behind
    stay bytes, and further bytes stay with the client. A client that sends no complete head for `stall_seconds` of the
    application's state, or one of more than `MAX_HEAD_BYTES`, is disconnected.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._stall_seconds: float = app_state["stall_seconds"]
        self._awaiting_head: asyncio.TimerHandle | None = None
        self._head_bytes: int | None = None  # of the head that arrives
        self._unparsed = b""
        self._unanswered: deque[RequestResponseCycle] = deque()

    def connection_made(self, transport: asyncio.Transport) -> None:
        """The client has connected."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended: let each request know, and not only the last one, as uvicorn does."""
        super().connection_lost(exc)
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
        self._stop_awaiting_head()
        self._unparsed = b""

    def data_received(self, data: bytes) -> None:
        """The client has sent `data`."""
        self._parse(self._unparsed + data)

    def _parse(self, data: bytes) -> None:
        parsed = 0
        while parsed < len(data) and not self.pipeline and not self.transport.is_closing():
            super().data_received(data[parsed : parsed + PIECE])
            parsed += PIECE
            if self._head_bytes is not None:
                self._head_bytes += PIECE
                if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                    self.send_400_response(f"The head of a request has at most {MAX_HEAD_BYTES} bytes.")
        self._unparsed = data[parsed:]
        if self.pipeline:
            self.flow.pause_reading()

    def on_message_begin(self) -> None:
        """The head of a request begins."""
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head of a request is there: begin it, or let it wait."""
        self._head_bytes = None
        self._stop_awaiting_head()
        super().on_headers_complete()
        self._unanswered.append(self.cycle)

    def on_response_complete(self) -> None:
        """A request is answered: begin the next one, and read on."""
        self._unanswered.popleft()
        super().on_response_complete()  # begins the next request if it was parsed already
        if self.transport.is_closing():
            return
        if self.cycle.response_complete:
            self._await_head()
        self.flow.resume_reading()
        self._parse(self._unparsed)

    def _await_head(self) -> None:
        self._stop_awaiting_head()
        self._awaiting_head = self.loop.call_later(self._stall_seconds, self.transport.close)

    def _stop_awaiting_head(self) -> None:
        if self._awaiting_head is not None:
            self._awaiting_head.cancel()
            self._awaiting_head = None
