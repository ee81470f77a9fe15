"""Nobody but Nestor begins a line of its logs: not by a path, and not by anything else that a message quotes."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import httpx
import pytest

from nestor_server.observability import logs
from testbed.server import running_server, wait_for
from testbed.services import Services

FORGED = "2026-11-26 12:00:00,000 INFO nestor_server.access: POST /api/v1/tokens 201"
BREAKS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029", "\x1b[31m", "\x9b31m", "\0", "\ud800"]

Format = Literal["text", "json"]
FORMATS: list[Format] = ["text", "json"]


@contextmanager
def configured(format: Format) -> Iterator[io.StringIO]:
    """What is logged inside the block, by a root logger as servers and workers have it."""
    root, written = logging.getLogger(), io.StringIO()
    before, level = root.handlers[:], root.level
    root.handlers[:] = [logging.StreamHandler(written)]
    try:
        logs.configure(format)
        yield written
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        logging.captureWarnings(capture=False)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("line_break", BREAKS, ids=ascii)
def test_what_a_message_quotes_stays_on_its_line(monkeypatch: pytest.MonkeyPatch, format: Format, line_break: str):
    monkeypatch.setattr("sys.excepthook", None)  # `configure` sets them
    monkeypatch.setattr("threading.excepthook", None)
    hostile = f"/x{line_break}{FORGED}"
    log = logging.getLogger("nestor.quoting")
    with configured(format) as written:
        log.warning("%s", hostile, extra={"path": hostile})
        try:
            raise ValueError(hostile)
        except ValueError:
            log.exception("failed: %s", hostile)
    lines = written.getvalue().splitlines()  # at everything that any reader takes for the end of a line
    assert not [line for line in lines if line.startswith((FORGED, line_break))]
    if format == "json":
        assert [json.loads(line)["logger"] for line in lines] == ["nestor.quoting"] * 2
        assert written.getvalue().isascii()
    else:
        assert sum(not line.startswith(" ") for line in lines) == 2
        assert all(map(str.isprintable, lines))


@pytest.mark.parametrize("format", FORMATS)
def test_a_path_cannot_forge_a_line(services: Services, format: Format):
    """`%0a` in a path wrote a line that looked like that of another request."""
    with running_server(services, log_format=format) as server:
        path = f"/nowhere%0a{FORGED}%1b[31m".replace(" ", "%20")
        assert httpx.get(server.url + path, trust_env=False).status_code == 404
        wait_for(lambda: "nowhere" in server.log.read_text(), "the line")
        (line,) = [line for line in server.log.read_text().splitlines() if "/tokens 201" in line]
    assert "nowhere" in line
    assert line.isprintable()
