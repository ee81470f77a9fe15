"""Requests: what is repeated, what is not, and what a failure says."""

from __future__ import annotations

import email.utils
import time
from uuid import UUID

import pytest

from nestor import errors, schemas
from nestor.errors import PROBLEM_JSON, NestorError, ServerUnreachable, StudyExists, Unauthenticated
from testbed.server import free_port
from tests.client.scripted import answer, hang_up, scripted

ME = {"user": "ada", "scope": "write"}


def problem(error: NestorError, **headers: str):
    return answer(error.status, error.problem(), type=PROBLEM_JSON, **headers)


BUSY = problem(errors.Unavailable(part="The database"))


def test_an_unreachable_address_is_reported_at_once_with_a_remedy(Client):
    url = f"http://127.0.0.1:{free_port()}"
    began = time.monotonic()
    with Client(url, "token") as client, pytest.raises(ServerUnreachable, match=f"{url}.*Start one with `nestor up`"):
        client.me()
    assert time.monotonic() - began < 1


def test_an_error_is_raised_as_the_class_that_the_server_raised(Client):
    with scripted(problem(StudyExists(name="digits"))) as script, Client(script.url, "token") as client:
        with pytest.raises(StudyExists, match="already have a study named 'digits'") as caught:
            client.create_study(schemas.StudyCreate(name="digits"))
        assert caught.value.context == {"name": "digits"}
        assert len(script.requests) == 1


def test_an_error_of_a_newer_server_keeps_its_sentence(Client):
    newer = {"code": "quota-spent", "detail": "You have spent your quota.", "status": 403}
    with (
        scripted(answer(403, newer, type=PROBLEM_JSON)) as script,
        Client(script.url, "token") as client,
        pytest.raises(NestorError, match="You have spent your quota"),
    ):
        client.me()


def test_a_response_of_another_server_is_quoted(Client):
    page = answer(404, b"<h1>nginx</h1>\n<p>more", type="text/html")
    with (
        scripted(page) as script,
        Client(script.url, "token") as client,
        pytest.raises(NestorError, match=r"GET /api/v1/me: 404 <h1>nginx</h1>$"),
    ):
        client.me()


def test_a_get_is_repeated_over_dropped_connections_and_busy_answers(Client):
    with scripted(hang_up, BUSY, answer(200, ME)) as script, Client(script.url, "token") as client:
        assert client.me().user == "ada"
        assert len(script.requests) == 3


def test_a_post_is_repeated_under_one_idempotency_key_and_each_post_has_its_own(Client):
    created = {"id": str(UUID(int=1)), "name": "ci", "scope": "read", "created_at": "2026-01-01T00:00:00Z"}
    created |= {"expires_at": None, "token": "nst_secret"}
    with scripted(hang_up, answer(201, created)) as script, Client(script.url, "token") as client:
        for _ in range(2):
            client.create_token(schemas.TokenCreate(name="ci"))
        first, again, other = (request.headers["idempotency-key"] for request in script.requests)
        assert first == again != other


def test_a_refusal_is_not_repeated(Client):
    with scripted(problem(Unauthenticated(reason="the token is unknown"))) as script:
        with Client(script.url, "wrong") as client, pytest.raises(Unauthenticated, match="the token is unknown"):
            client.me()
        assert len(script.requests) == 1
        assert script.requests[0].headers["authorization"] == "Bearer wrong"


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_respected(Client, form):
    value = "1.2" if form == "seconds" else email.utils.formatdate(time.time() + 3, usegmt=True)
    busy = problem(errors.Unavailable(part="The database"), retry_after=value)
    with scripted(busy, answer(200, ME)) as script, Client(script.url, "token") as client:
        began = time.monotonic()
        client.me()
        assert 1.1 < time.monotonic() - began < 3.5


def test_a_server_that_stays_busy_raises_its_own_error(Client, monkeypatch):
    for module in ("nestor.remote.transport", "nestor.remote.asynchronous.transport"):
        monkeypatch.setattr(f"{module}.ATTEMPTS", 2)
    with scripted(BUSY) as script, Client(script.url, "token") as client:
        with pytest.raises(errors.Unavailable, match="The database does not answer right now"):
            client.me()
        assert len(script.requests) == 2
