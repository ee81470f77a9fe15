"""What `nestor doctor` says about NESTOR_SERVER and NESTOR_TOKEN."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nestor.remote import credentials
from nestor.schemas import Scope
from nestor_server.client_checks import examine_client
from nestor_server.services.access import tokens
from testbed.server import Server, free_port


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NESTOR_CREDENTIALS", str(tmp_path / "credentials.json"))
    for name in ("NESTOR_SERVER", "NESTOR_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def other_server() -> Iterator[str]:
    """A server of files, which is not a Nestor server."""
    other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{other.server_address[1]}"
    other.shutdown()
    thread.join()
    other.server_close()


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def found(monkeypatch: pytest.MonkeyPatch, server: str | None = None, token: str | None = None) -> list[str]:
    """The report with these variables: the messages that are wrong, or all if nothing is."""
    for name, value in {"NESTOR_SERVER": server, "NESTOR_TOKEN": token}.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    results = list(examine_client())
    assert all(result.remedy for result in results if not result.ok)
    return [one.message for one in results if not one.ok] or [one.message for one in results]


@pytest.mark.parametrize(
    ("scope", "permits"), [("read", "read"), ("write", "read and write"), ("admin", "read, write and manage tokens")]
)
def test_a_right_server_and_token_are_described(server: Server, monkeypatch, scope, permits):
    _, answers, allowed = found(monkeypatch, server.url, server.new_token("ada", Scope(scope)))
    assert answers == f"NESTOR_SERVER: {server.url} answers (Nestor 0.1.0)"
    expires = datetime.now(UTC) + tokens.LIFETIME
    assert allowed == f"NESTOR_TOKEN: user 'ada' may {permits} (scope {scope}), until {expires:%Y-%m-%d}"


def test_a_wrong_server_is_found(monkeypatch, other_server):
    away = f"http://127.0.0.1:{free_port()}"
    assert found(monkeypatch, away, "x")[0].startswith(f"NESTOR_SERVER: no server answers at {away} (")
    assert found(monkeypatch, other_server, "x") == [f"NESTOR_SERVER: {other_server} is not a Nestor server"]
    assert found(monkeypatch, "ftp://x", "x") == ["NESTOR_SERVER is not an address"]


def test_a_wrong_token_is_found_with_the_reason(server: Server, monkeypatch):
    start = f"NESTOR_TOKEN: {server.url} does not accept it:"
    assert found(monkeypatch, server.url) == [f"no usable token for {server.url}"]
    assert found(monkeypatch, server.url, "nst_wrong") == [f"{start} this token is unknown"]
    with server.sessions.begin() as session:
        expired = tokens.create(session, "ada", expires=timedelta(seconds=-1))
    assert found(monkeypatch, server.url, expired)[0].startswith(f"{start} this token expired on ")
    assert found(monkeypatch, server.url, "two\nlines") == [f"no usable token for {server.url}"]


def test_what_is_saved_is_checked_where_nothing_is_set(server: Server, monkeypatch):
    none, *more = found(monkeypatch)
    assert none.startswith("no credentials in ")
    credentials.save(server.url, server.new_token("ada"))
    assert f"the default server: {server.url} answers (Nestor 0.1.0)" in found(monkeypatch)
    credentials.save(server.url, "nst_old")
    assert found(monkeypatch) == [f"the saved token: {server.url} does not accept it: this token is unknown"]
    credentials.path().chmod(0o644)
    assert any(message.startswith("other users can read the tokens") for message in found(monkeypatch))
    del more  # of a server that happens to run at the default address
