"""`.ci/audit` against a database of known faults, which answers as OSV does."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from testbed.server import free_port

ROOT = Path(__file__).parents[2]
FAULT = {
    "id": "GHSA-0000-1111-2222",
    "summary": "It is insecure.",
    "details": "It is insecure.",
    "affected": [{"package": {"name": "redis", "ecosystem": "PyPI"}}],
}
Asked = tuple[str, str]  # a package and its version


@contextmanager
def database(answer: Callable[[Asked], tuple[int, Any]]) -> Iterator[tuple[str, set[Asked]]]:
    """Its address, and what it was asked for."""
    asked: set[Asked] = set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.add((query["package"]["name"], query["version"]))
            status, document = answer((query["package"]["name"], query["version"]))
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query", asked
        finally:
            server.shutdown()
            thread.join()


def audit(url: str) -> tuple[int, str]:
    environment = os.environ | {"OSV_URL": url, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run([ROOT / ".ci" / "audit"], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_it_asks_for_every_pinned_version_and_passes_if_none_has_a_fault():
    with database(lambda asked: (200, {})) as (url, asked):
        assert audit(url) == (0, "")
    files = [ROOT / "constraints" / "dev.txt", *(ROOT / "constraints" / "images").glob("*.txt")]
    pins = {pin for file in files for pin in re.findall(r"^([\w.-]+)==([\w.]+)", file.read_text(), re.MULTILINE)}
    assert asked == {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in pins}


def test_a_known_fault_of_one_package_fails_and_is_named():
    answer = lambda asked: (200, {"vulns": [FAULT]} if asked[0] == "redis" else {})
    with database(answer) as (url, _):
        code, output = audit(url)
    assert code == 1
    assert re.search(r"^redis +[\d.]+ +GHSA-0000-1111-2222", output, re.MULTILINE)
    assert "Found 1 known vulnerability" in output


def test_without_network_it_says_so_and_passes():
    url = f"http://127.0.0.1:{free_port()}/v1/query"
    code, output = audit(url)
    assert code == 0
    assert f"could not reach advisories at {url}" in output


def test_another_server_in_place_of_the_database_is_no_answer_either():
    """A proxy that refuses, as in many companies."""
    with database(lambda asked: (403, {})) as (url, _):
        code, output = audit(url)
    assert code == 0
    assert f"could not reach advisories at {url}" in output
