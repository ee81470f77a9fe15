"""Who may do what: tokens, scopes, and a browser's session."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import select

from nestor.schemas import Scope
from nestor_server.models import Token
from nestor_server.services import tokens
from tests.server.conftest import ok, problem


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "token-missing"),
        ("Bearer nst_wrong", "token-unknown"),
        ("Bearer", "token-missing"),
        ("Basic dXNlcjpwdw==", "token-missing"),
        ("Bearer \u00e9", "token-unknown"),
        ("nonsense", "token-missing"),
    ],
)
@pytest.mark.parametrize("path", ["/me", "/studies", "/trials/018f0000-0000-7000-8000-000000000000/events"])
def test_without_a_valid_token_every_answer_is_a_401(server, header, code, path):
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    with server.http(None) as client:
        response = client.get(path, headers=headers)
    document = problem(response, 401, code)
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert "nestor token create" in document["detail"]


def test_a_new_token_is_shown_once_and_stored_as_its_hash(server):
    user = f"user-{uuid4()}"
    with server.http(server.new_token(user, Scope.admin)) as admin:
        made = ok(admin.post("/tokens", json={"name": "laptop", "scope": "read", "expires_in_days": 30}))
        assert made["token"].startswith("nst_")
        assert len(made["token"]) == 47
        listed = ok(admin.get("/tokens"))["items"]
        assert "token" not in listed[1]
        assert [token["name"] for token in listed] == ["token", "laptop"]
    with server.http(made["token"]) as reader:
        assert ok(reader.get("/me")) == {"user": user, "scope": "read"}
    with server.sessions() as session:
        for value in session.scalars(select(Token.sha256)):
            assert made["token"] not in value


@pytest.mark.parametrize(
    ("scope", "method", "path", "allowed"),
    [
        (Scope.read, "GET", "/studies", True),
        (Scope.read, "POST", "/studies", False),
        (Scope.write, "POST", "/studies", True),
        (Scope.write, "POST", "/tokens", False),
        (Scope.write, "GET", "/tokens", False),
        (Scope.admin, "POST", "/studies", True),
    ],
)
def test_a_scope_includes_those_before_it_and_no_more(server, scope, method, path, allowed):
    with server.http(server.new_token(scope=scope)) as client:
        response = client.request(method, path, json={"name": "s"} if method == "POST" else None)
    if allowed:
        ok(response)
    else:
        problem(response, 403, "forbidden")


def test_a_revoked_token_is_refused(server):
    with server.http(server.new_token(scope=Scope.admin)) as admin:
        made = ok(admin.post("/tokens", json={}))
        assert admin.delete(f"/tokens/{made['id']}").status_code == 204
        problem(admin.delete(f"/tokens/{made['id']}"), 404, "token-not-found")
        assert made["id"] not in [token["id"] for token in ok(admin.get("/tokens"))["items"]]
    with server.http(made["token"]) as client:
        assert "revoked" in problem(client.get("/me"), 401, "token-revoked")["detail"]


def test_an_expired_token_is_refused(server):
    with server.sessions.begin() as session:
        token = tokens.create(session, "late", Scope.read, expires=timedelta(seconds=-1))
    with server.http(token) as client:
        assert "expired" in problem(client.get("/me"), 401, "token-expired")["detail"]


def test_a_user_cannot_revoke_the_token_of_another(server):
    with server.http(server.new_token(scope=Scope.admin)) as one, server.http() as other:
        token = ok(one.get("/tokens"))["items"][0]["id"]
        problem(other.delete(f"/tokens/{token}"), 404, "token-not-found")


# --- browsers -------------------------------------------------------------------------------------


@pytest.fixture
def browser(server):
    """A client that is logged in by cookie."""
    with server.http(None) as client:
        login = client.post("/session", json={"token": server.new_token()}, headers={"X-Nestor-Request": "1"})
        ok(login)
        yield client, login


def test_a_session_is_a_cookie_that_scripts_cannot_read(browser):
    client, login = browser
    cookie = login.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    ok(client.get("/me"))


def test_a_session_changes_something_only_with_the_header_that_other_sites_cannot_send(browser):
    client, _ = browser
    problem(client.post("/studies", json={"name": "s"}), 403, "cross-site")
    problem(client.post("/studies", json={"name": "s"}, headers={"Origin": "https://evil.example"}), 403, "cross-site")
    ok(client.post("/studies", json={"name": "s"}, headers={"X-Nestor-Request": "1"}))


def test_another_site_can_neither_log_a_browser_in_nor_out(server):
    with server.http(None) as client:
        problem(client.post("/session", json={"token": server.token}), 403, "cross-site")
        problem(client.delete("/session"), 403, "cross-site")


def test_a_session_ends(browser):
    client, _ = browser
    assert client.delete("/session", headers={"X-Nestor-Request": "1"}).status_code == 204
    problem(client.get("/me"), 401, "token-missing")


def test_a_wrong_token_starts_no_session(server):
    with server.http(None) as client:
        response = client.post("/session", json={"token": "nst_wrong"}, headers={"X-Nestor-Request": "1"})
    problem(response, 401, "token-unknown")
    assert "Set-Cookie" not in response.headers


def test_no_secret_reaches_the_log(server):
    token = server.new_token()
    httpx.get(f"{server.url}/api/v1/me?token={token}", headers={"Authorization": f"Bearer {token}"}, trust_env=False)
    assert token not in server.log.read_text()
