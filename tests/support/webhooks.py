"""A receiver of notices, and the check of signatures that the documentation shows to receivers."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

LOOPBACK = "http://127.0.0.0/8"  # for NESTOR_WEBHOOK_ALLOW
PAGE = Path(__file__).parents[2] / "docs" / "webhooks.md"


def documented_verify(secret: str, headers: Mapping[str, str], body: bytes) -> Any:
    """`verify` as the page has it."""
    page = Sybil([PythonCodeBlockParser()]).parse(PAGE)
    (example,) = [one for one in page.examples() if "def verify" in one.parsed]
    example.evaluate()
    return page.namespace["verify"](secret, headers, body)


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def payload(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclass
class Receiver:
    """A web server of a user. `answer` gives the status, and the headers, of the answer to the n-th request."""

    url: str = ""
    answer: Callable[[int], tuple[int, dict[str, str]]] = lambda n: (204, {})
    received: list[Received] = field(default_factory=list)

    def types(self) -> list[str]:
        return [one.payload["type"] for one in self.received]


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.received.append(Received(self.path, headers, body))
            status, more = receiver.answer(len(receiver.received))
            self.send_response(status)
            for name, value in ({"Content-Length": "0"} | more).items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as listening:
        receiver.url = f"http://127.0.0.1:{listening.server_address[1]}/notices"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            listening.shutdown()
            thread.join()
