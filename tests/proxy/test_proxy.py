"""Behind nginx: TLS, a path, streams, uploads, and servers that restart."""

from __future__ import annotations

import os
import ssl
import threading
from urllib.parse import urljoin
from uuid import UUID

import httpx
import pytest
from playwright.sync_api import expect

from nestor.errors import ServerUnreachable
from nestor.remote.client import Client
from nestor.schemas import API, State
from testbed.nginx import PREFIX, running_nginx
from testbed.server import serving
from tests.client.cutting import cutting
from tests.server.conftest import SPEC, Run, ok, problem
from tests.server.test_events import events

SAME_SITE = {"X-Nestor-Request": "1"}


@pytest.fixture
def run(server, http) -> Run:
    study = ok(http.post("/studies", json={"name": "digits"}))["id"]
    return Run(server, UUID(ok(http.post(f"/studies/{study}/trials", json=SPEC))["id"]))


@pytest.fixture
def client(nginx, token, monkeypatch):
    """Nestor's client, with an authority of our own."""
    monkeypatch.setenv("SSL_CERT_FILE", str(nginx.authority))
    with Client(f"{nginx.url}/", token=token) as client:
        yield client


# --- addresses ------------------------------------------------------------------------------------


def test_the_cookie_is_secure_and_belongs_to_the_path(http, token):
    del http.headers["Authorization"]
    answer = http.post("/session", json={"token": token}, headers=SAME_SITE)
    assert answer.status_code == 200
    attributes = set(answer.headers["Set-Cookie"].split("; ")[1:])
    assert attributes == {"HttpOnly", f"Path={PREFIX}", "SameSite=strict", "Secure"}
    ok(http.get("/me"))
    problem(http.post("/studies", json={"name": "s"}), 403, "cross-site")
    ok(http.post("/studies", json={"name": "s"}, headers=SAME_SITE))
    ended = http.delete("/session", headers=SAME_SITE)
    assert f"Path={PREFIX}" in ended.headers["Set-Cookie"]
    problem(http.get("/me"), 401, "token-missing")


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.0.0.3"])
def test_forwarded_headers_are_believed_only_from_a_trusted_peer(server, token, peer):
    """A client that reaches the server past the proxy, from an address that is trusted or not."""
    spoofed = {
        "X-Forwarded-Proto": "https",
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Prefix": "/evil",
        "Forwarded": "for=127.0.0.1;proto=https;host=evil.example",
    }
    with httpx.Client(transport=httpx.HTTPTransport(local_address=peer), headers=spoofed) as direct:
        answer = direct.post(f"{server.url}{API}/session", json={"token": token}, headers=SAME_SITE)
        redirect = direct.get(f"{server.url}/docs")
    assert ("Secure" in answer.headers["Set-Cookie"]) == (peer == "127.0.0.1")
    assert f"Path={PREFIX}" in answer.headers["Set-Cookie"]
    assert redirect.headers["Location"] == "docs/"  # names neither a scheme nor a host


@pytest.mark.parametrize("trusted", ["127.0.0.1,::1", "127.0.0.0/29"], ids=["by default", "when it is named"])
def test_a_proxy_elsewhere_makes_cookies_secure_only_if_it_is_named(server, token, trusted):
    """As outside of a container, where the server sees another address than its own."""
    urls = {"database_url": server.settings.database_url, "redis_url": server.settings.redis_url}
    with (
        serving(urls | {"root_path": PREFIX, "trusted_proxies": trusted}) as apart,
        running_nginx([apart.settings.port], address="127.0.0.4") as nginx,
        httpx.Client(verify=ssl.create_default_context(cafile=nginx.authority), trust_env=False) as http,
    ):
        answer = http.post(f"{nginx.url}{API}/session", json={"token": token}, headers=SAME_SITE)
    assert answer.status_code == 200
    assert ("Secure" in answer.headers["Set-Cookie"]) == (trusted == "127.0.0.0/29")


def test_the_proxy_overwrites_what_a_client_says_of_its_scheme(http, token):
    answer = http.post("/session", json={"token": token}, headers=SAME_SITE | {"X-Forwarded-Proto": "http"})
    assert "Secure" in answer.headers["Set-Cookie"]


def test_locations_and_the_document_name_the_path(http, nginx):
    announced = http.post("/blobs", json={"digest": "sha256:" + "a" * 64, "size": 5})
    location = announced.headers["Location"]
    assert location.startswith(f"{PREFIX}{API}/blobs/")
    assert http.head(f"https://127.0.0.1:{nginx.port}{location}").status_code == 200
    study = http.post("/studies", json={"name": "located"})
    assert ok(http.get(f"https://127.0.0.1:{nginx.port}{study.headers['Location']}"))["name"] == "located"
    assert urljoin(f"{nginx.url}/docs", http.get(f"{nginx.url}/docs").headers["Location"]) == f"{nginx.url}/docs/"
    assert http.get(f"https://127.0.0.1:{nginx.port}{PREFIX}").headers["Location"] == f"{nginx.url}/"
    document = ok(http.get(f"{nginx.url}/openapi.json"))
    assert urljoin(f"{nginx.url}/openapi.json", document["servers"][0]["url"]) == f"{nginx.url}/"


# --- transport ------------------------------------------------------------------------------------


def test_events_arrive_while_they_happen(http, run):
    """A proxy that buffers would deliver them at the end of the stream."""
    stream = events(http, run.path, after=2)
    for number in range(1, 6):
        run.record(1)
        assert next(stream)[2]["number"] == number
    run.finish()
    assert [kind for _, kind, _ in stream] == ["state", "end"]


def test_a_quiet_stream_stays_open(http, run):
    with http.stream("GET", f"{run.path}/events", headers={"Last-Event-ID": "2"}) as response:
        lines = response.iter_lines()
        for _ in range(3):
            assert next(line for line in lines if line).startswith(":")


def test_a_long_poll_waits_behind_the_proxy(http, run):
    timer = threading.Timer(0.5, run.record)
    timer.start()
    page = ok(http.get(f"{run.path}/events", params={"after": 2, "wait": 20}))
    timer.join()
    assert [event["type"] for event in page["items"]] == ["step"]


def test_the_client_follows_a_trial_over_connections_that_are_cut(nginx, token, run, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(nginx.authority))
    run.record(40)
    run.finish()
    cuts = (6_000, 7_000, 8_000)  # in the middle of encrypted records, behind the handshake
    with cutting(nginx.url, received=cuts) as cut:
        address = cut.url.replace("http://", "https://") + PREFIX
        with Client(address, token=token) as client:
            client._transport.connected_before = True  # it was, before its connections began to break
            numbers = [event.data["number"] for event in client.events(run.id) if event.type == "step"]
    assert numbers == list(range(1, 41))
    assert cut.cut >= 2


def test_an_upload_of_many_pieces_arrives(client, http, token):
    data = os.urandom(9 * 2**20)
    digest = client.upload(data, what="upload", show_progress_bar=False)
    assert http.get(f"/blobs/{digest}").content == data


def test_a_body_that_is_too_large_for_the_proxy_is_an_error_with_its_status(http):
    """The documented limit of nginx is that of the server."""
    big = {"name": "s", "user_attrs": {"a": "x" * (16 * 2**20)}}
    assert http.post("/studies", json=big).status_code == 413


def test_a_certificate_of_an_unknown_authority_is_refused(nginx, token, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with Client(nginx.url, token=token) as client, pytest.raises(ServerUnreachable, match=r"(?i)certificate"):
        list(client.studies())


# --- restarts -------------------------------------------------------------------------------------


def test_clients_and_streams_outlive_the_restart_of_each_server(client, run, server, second):
    """As in an upgrade: one server after the other ends while a trial goes on."""
    seen: list[int] = []

    def follow() -> None:
        seen.extend(event.data["number"] for event in client.events(run.id) if event.type == "step")

    following = threading.Thread(target=follow, daemon=True)  # if this test fails, the trial has no end
    following.start()
    for one in (server, second):
        run.record(2)
        one.stop()
        for _ in range(4):
            assert client.trial(run.id).state is State.running
        run.record(2)
        one.start()
    run.record(2)
    run.finish()
    following.join(timeout=120)
    assert seen == list(range(1, 11))


def test_the_dashboard_works_below_the_path_and_while_a_server_restarts(browser, nginx, token, run, second):
    run.record(2)
    with browser.new_context(ignore_https_errors=True) as context:
        page = context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        outside: list[str] = []
        page.on("request", lambda request: None if request.url.startswith(nginx.url) else outside.append(request.url))
        page.goto(f"{nginx.url}/#token={token}")
        expect(page.get_by_role("link", name="digits", exact=True)).to_be_visible(timeout=30_000)
        page.goto(f"{nginx.url}/#/trials/{run.id}")
        curve = page.locator(".slot-losses [data-steps]").first
        expect(curve).to_have_attribute("data-steps", "2", timeout=30_000)
        (cookie,) = context.cookies()
        assert (cookie["secure"], cookie["path"]) == (True, PREFIX)
        second.stop()
        run.record(3)
        expect(curve).to_have_attribute("data-steps", "5", timeout=30_000)
        second.start()
        run.record(1)
        expect(curve).to_have_attribute("data-steps", "6", timeout=30_000)
        page.goto(f"{nginx.url}/docs/")
        expect(page.get_by_text("/trials/{trial_id}").first).to_be_visible()
        assert (errors, outside) == ([], [])
