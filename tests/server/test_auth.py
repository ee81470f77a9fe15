"""Who may do what: tokens, scopes, and a browser's session."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import select

from nestor.errors import SessionEnded
from nestor.schemas import Scope
from nestor_server.models import BrowserSession, Token
from nestor_server.services.access import browser_sessions, tokens
from testbed.server import Server, wait_for
from tests.server.conftest import ok, problem

SAME_SITE = {"X-Nestor-Request": "1"}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


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
        assert ok(reader.get("/me")) == {
            "user": user, "scope": "read", "token_id": made["id"], "expires_at": made["expires_at"],
        }  # fmt: skip
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
        (Scope.read, "GET", "/tokens", True),
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


def test_a_token_expires_after_a_year_unless_asked_otherwise(server):
    with server.http(server.new_token(scope=Scope.admin)) as admin:
        (own,) = ok(admin.get("/tokens"))["items"]  # as `nestor token create` makes it
        made = ok(admin.post("/tokens", json={}))
        never = ok(admin.post("/tokens", json={"expires_in_days": None}))
    for token in (own, made):
        lasts = datetime.fromisoformat(token["expires_at"]) - datetime.fromisoformat(token["created_at"])
        assert lasts == timedelta(days=365)
    assert never["expires_at"] is None


@pytest.mark.parametrize(
    ("own", "other", "allowed"),
    [
        (Scope.read, Scope.read, False),
        (Scope.write, Scope.read, True),
        (Scope.write, Scope.write, True),
        (Scope.write, Scope.admin, False),
        (Scope.admin, Scope.admin, True),
    ],
)
def test_a_token_that_may_write_revokes_those_that_may_not_do_more(server, own, other, allowed):
    user = f"user-{uuid4()}"
    with server.http(server.new_token(user, other)) as http:
        token_id = ok(http.get("/me"))["token_id"]
    with server.http(server.new_token(user, own)) as http:
        shown = {token["id"]: token["revocable"] for token in ok(http.get("/tokens"))["items"]}
        assert shown == {token_id: allowed, ok(http.get("/me"))["token_id"]: True}
        response = http.delete(f"/tokens/{token_id}")
        if allowed:
            assert response.status_code == 204
        else:
            problem(response, 403, "forbidden")


@pytest.mark.parametrize("scope", Scope)
def test_every_token_can_revoke_itself(server, scope):
    """A user who has leaked a token needs no operator to end it."""
    with server.http(server.new_token(scope=scope)) as http:
        assert http.delete(f"/tokens/{ok(http.get('/me'))['token_id']}").status_code == 204
        problem(http.get("/me"), 401, "token-revoked")


def test_a_token_shows_when_it_was_used_last(server):
    """Also by a request that failed, as those of somebody who tries a token that was leaked."""
    user = f"user-{uuid4()}"
    with server.http(server.new_token(user, Scope.write)) as http:
        with server.http(server.new_token(user, Scope.read)) as leaked:
            problem(leaked.post("/studies", json={"name": "s"}), 403, "forbidden")

        def used() -> list[str | None]:
            return [token["last_used_at"] for token in ok(http.get("/tokens"))["items"]]

        wait_for(lambda: all(used()), "the uses of both tokens to be recorded")
        for moment in used():
            assert abs(datetime.now(UTC) - datetime.fromisoformat(str(moment))) < timedelta(minutes=1)


def test_a_use_is_never_recorded_before_one_that_another_server_has_seen(server):
    token_id = ok(httpx.get(f"{server.url}/api/v1/me", headers=bearer(server.new_token()), trust_env=False))["token_id"]
    late, early = datetime(2030, 1, 2, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)
    with server.sessions.begin() as session:
        tokens.record_uses(session, {UUID(token_id): late})
        tokens.record_uses(session, {UUID(token_id): early})
        assert session.get_one(Token, UUID(token_id)).last_used_at == late


def test_a_user_cannot_revoke_the_token_of_another(server):
    with server.http(server.new_token(scope=Scope.admin)) as one, server.http() as other:
        token = ok(one.get("/tokens"))["items"][0]["id"]
        problem(other.delete(f"/tokens/{token}"), 404, "token-not-found")


# --- browsers -------------------------------------------------------------------------------------


@pytest.fixture
def browser(server):
    """A client that is logged in by cookie."""
    with server.http(None) as client:
        yield client, log_in(client, server.new_token())


def log_in(client: httpx.Client, token: str) -> httpx.Response:
    login = client.post("/session", json={"token": token}, headers=SAME_SITE)
    ok(login)
    return login


def copied(server: Server, client: httpx.Client) -> httpx.Client:
    """Another client with the cookies that this one has now."""
    return server.http(None, cookies=dict(client.cookies))


def test_a_session_is_a_cookie_that_scripts_cannot_read(server, browser):
    client, login = browser
    name, _, rest = login.headers["Set-Cookie"].partition("=")
    assert name == f"nestor_session_{server.settings.port}"
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(rest.split("; "))
    ok(client.get("/me"))


def test_the_cookie_holds_neither_the_token_nor_what_the_database_stores(server, browser):
    client, _ = browser
    (id,) = client.cookies.values()
    assert id.startswith("nss_")
    with server.sessions() as session:
        stored = set(session.scalars(select(BrowserSession.sha256)))
    assert hashlib.sha256(id.encode()).hexdigest() in stored
    for value in (id, *stored):
        with server.http(value) as as_token:
            problem(as_token.get("/me"), 401, "token-unknown")


def test_browsers_keep_the_sessions_of_two_ports_apart(server):
    """Cookies know no ports: two servers on one machine would log each other's users out."""
    names = set()
    for host in ("nestor.example", "nestor.example:8001", "nestor.example:8002", "nestor.example:99999", "["):
        with server.http(None) as client:
            client.headers["Host"] = host
            names.add(log_in(client, server.token).headers["Set-Cookie"].partition("=")[0])
    assert names == {"nestor_session_80", "nestor_session_8001", "nestor_session_8002"}


def test_a_cookie_of_another_port_is_not_read(server, browser):
    client, _ = browser
    (id,) = client.cookies.values()
    with server.http(None, cookies={"nestor_session_1": id, "nestor_token": server.token}) as other:
        problem(other.get("/me"), 401, "token-missing")


def test_the_cookie_of_earlier_versions_which_held_a_token_is_deleted(server):
    with server.http(None, cookies={"nestor_token": server.token}) as client:
        login = log_in(client, server.token)
    old = [value for value in login.headers.get_list("Set-Cookie") if value.startswith("nestor_token=")]
    assert len(old) == 1
    assert "Max-Age=0" in old[0]


def test_a_session_changes_something_only_with_the_header_that_other_sites_cannot_send(browser):
    client, _ = browser
    problem(client.post("/studies", json={"name": "s"}), 403, "cross-site")
    problem(client.post("/studies", json={"name": "s"}, headers={"Origin": "https://evil.example"}), 403, "cross-site")
    ok(client.post("/studies", json={"name": "s"}, headers=SAME_SITE))


def test_another_site_can_neither_log_a_browser_in_nor_out(server):
    with server.http(None) as client:
        problem(client.post("/session", json={"token": server.token}), 403, "cross-site")
        problem(client.delete("/session"), 403, "cross-site")


def test_logging_out_ends_the_session_also_for_a_copied_cookie(server, browser):
    client, _ = browser
    with copied(server, client) as copy:
        ok(copy.get("/me"))
        assert client.delete("/session", headers=SAME_SITE).status_code == 204
        problem(client.get("/me"), 401, "token-missing")
        problem(copy.get("/me"), 401, "session-ended")


def test_logging_out_ends_no_other_session_of_the_token(server):
    token = server.new_token()
    with server.http(None) as one, server.http(None) as other:
        log_in(one, token)
        log_in(other, token)
        assert one.delete("/session", headers=SAME_SITE).status_code == 204
        ok(other.get("/me"))


def test_logging_in_again_ends_the_session_before(server, browser):
    client, _ = browser
    with copied(server, client) as copy:
        log_in(client, server.new_token())
        problem(copy.get("/me"), 401, "session-ended")
        ok(client.get("/me"))


def test_a_session_ends_with_its_token(server):
    user = f"user-{uuid4()}"
    with server.http(None) as browser, server.http(server.new_token(user)) as http:
        log_in(browser, server.new_token(user))
        token_id = ok(browser.get("/me"))["token_id"]
        assert http.delete(f"/tokens/{token_id}").status_code == 204
        problem(browser.get("/me"), 401, "token-revoked")


def test_a_session_ends_after_its_time(server, browser):
    client, _ = browser
    sha256 = tokens.sha256(next(iter(client.cookies.values())))
    with server.sessions.begin() as session:
        row = session.scalars(select(BrowserSession).where(BrowserSession.sha256 == sha256)).one()
        row.expires_at = datetime.now(UTC) - timedelta(seconds=1)
        session.flush()
        browser_sessions.purge(session)
        assert session.get(BrowserSession, row.id, populate_existing=True) is None
    problem(client.get("/me"), 401, "session-ended")


def test_a_token_has_a_bounded_number_of_sessions_and_the_oldest_end(server):
    token = server.new_token()
    with server.sessions.begin() as session:
        ids = [browser_sessions.begin(session, token)[1] for _ in range(browser_sessions.MOST + 1)]
        with pytest.raises(SessionEnded):
            browser_sessions.authenticate(session, ids[0])
        for id in ids[1:]:
            browser_sessions.authenticate(session, id)


def test_a_wrong_token_starts_no_session(server):
    with server.http(None) as client:
        response = client.post("/session", json={"token": "nst_wrong"}, headers=SAME_SITE)
    problem(response, 401, "token-unknown")
    assert "Set-Cookie" not in response.headers


def test_no_secret_reaches_the_log(server):
    token = server.new_token()
    httpx.get(f"{server.url}/api/v1/me?token={token}", headers={"Authorization": f"Bearer {token}"}, trust_env=False)
    assert token not in server.log.read_text()
