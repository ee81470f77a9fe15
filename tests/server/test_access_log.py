"""The log of requests: changes and refusals. Each dashboard reads every few seconds, and its reads are left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from testbed.server import Server, running_server, wait_for
from testbed.services import Services


def logged(server: Server) -> list[tuple[str, str, str]]:
    """Method, path and status of each request in the log."""
    lines = server.log.read_text().splitlines()
    requests = [line.partition("nestor_server.access: ")[2].split() for line in lines]
    return [(method, path, status) for method, path, status, *_ in filter(None, requests)]


@contextmanager
def visited(server: Server) -> Iterator[str]:
    """The path of a study that was created, read, compared and deleted."""
    with server.http(server.new_token()) as http:
        study = f"/studies/{http.post('/studies', json={'name': 'watched'}).json()['id']}"
        tag = http.get(study).headers["ETag"]
        assert http.get(study, headers={"If-None-Match": tag}).status_code == 304
        assert http.head("/").status_code == 404
        assert http.get("/studies/missing").status_code == 422
        assert http.delete(study).status_code == 204
        path = f"/api/v1{study}"
        wait_for(lambda: ("DELETE", path, "204") in logged(server), "the last line")
        yield path


def test_changes_and_refusals_are_logged_and_reads_are_not(server: Server):
    with visited(server) as study:
        lines = logged(server)
    assert ("POST", "/api/v1/studies", "201") in lines
    assert ("GET", "/api/v1/studies/missing", "422") in lines
    assert ("HEAD", "/api/v1/", "404") in lines
    assert [line for line in lines if line[1] == study] == [("DELETE", study, "204")]
    assert ("GET", "/readyz", "200") not in lines


def test_a_setting_logs_reads_too(services: Services):
    with running_server(services, log_reads=True) as server, visited(server) as study:
        lines = logged(server)
    assert [line for line in lines if line[1] == study] == [
        ("GET", study, "200"),
        ("GET", study, "304"),
        ("DELETE", study, "204"),
    ]
    assert ("GET", "/readyz", "200") in lines
