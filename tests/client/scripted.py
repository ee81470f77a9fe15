"""A small real HTTP server with scripted responses: late, wrong, or incomplete."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Script:
    """One answer for each request; the last one for all that follow."""

    answers: list[Callable[[BaseHTTPRequestHandler], None]]
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    def next(self) -> Callable[[BaseHTTPRequestHandler], None]:
        return self.answers[min(len(self.requests), len(self.answers)) - 1]


@contextmanager
def scripted(*answers: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[Script]:
    script = Script(list(answers))

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            script.requests.append(Request(self.command, self.path, headers, body))
            self.close_connection = True
            script.next()(self)

        do_GET = do_POST = do_PATCH = do_DELETE = handle_any

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer(
    status: int = 200, body: Any = None, *, type: str = "application/json", **headers: str
) -> Callable[[BaseHTTPRequestHandler], None]:
    def write(handler: BaseHTTPRequestHandler) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        for name, value in {"content_type": type, "content_length": str(len(data)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return write


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection without a response."""
    del handler


def pieces(*parts: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    """An event stream that sends `parts` and then breaks off, whatever they are."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream; charset=utf-8")
        handler.send_header("Content-Length", "1000000")  # more than will come: the end is a cut
        handler.end_headers()
        for part in parts:
            handler.wfile.write(part)
            handler.wfile.flush()

    return write
