"""`nestor token create` and `nestor user`: how an operator lets users in and out, on the server's database."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from uuid import uuid4

import pytest

from nestor.schemas import Scope
from nestor_server.embedded.access import prepare
from nestor_server.embedded.home import Home
from nestor_server.services.access import tokens
from testbed.server import Server, as_service
from tests.client.shell import Shell
from tests.server.conftest import SPEC, ok, problem


@pytest.fixture
def user() -> str:
    return f"user-{uuid4().hex[:12]}"


@pytest.fixture
def shell(server: Server) -> Shell:
    """With the role of the server, whose container has the commands of operators."""
    return Shell(NESTOR_DATABASE_URL=as_service("server", server.settings.database_url))


def tokens_of(shell: Shell, user: str) -> list[dict[str, str]]:
    return json.loads(shell("user", "tokens", user, "--json"))


def test_a_token_expires_after_a_year_or_when_the_operator_says(shell, user):
    lasts = {}
    for options in ((), ("--expires-in-days", "7"), ("--never",)):
        shell("token", "create", "--user", user, "--name", " ".join(options), *options)
    for token in tokens_of(shell, user):
        end, created = token["expires_at"], datetime.fromisoformat(token["created_at"])
        lasts[token["name"]] = end and datetime.fromisoformat(end) - created
    assert lasts == {"": timedelta(days=365), "--expires-in-days 7": timedelta(days=7), "--never": None}
    assert "never" in shell("user", "tokens", user)
    assert "with --never" in shell("token", "create", "--never", "--expires-in-days", "7", code=2)


def test_an_operator_sees_what_users_take(server, shell, user):
    with server.http(server.new_token(user)) as http:
        study = ok(http.post("/studies", json={"name": "s"}))["id"]
        ok(http.post(f"/studies/{study}/trials", json=SPEC))
        ok(http.post("/blobs", json={"digest": f"sha256:{64 * 'a'}", "size": 1_500_000}))
    (found,) = (one for one in json.loads(shell("user", "list", "--json")) if one["user"] == user)
    del found["last_used_at"]  # within seconds
    assert found == {
        "user": user, "tokens": 1, "studies": 1, "trials": 1, "unfinished_trials": 1, "bytes": 1_500_000,
    }  # fmt: skip
    assert user in shell("user", "list")


def test_an_operator_revokes_one_token_or_all_of_a_user(server, shell, user):
    first, second, third = (server.new_token(user) for _ in range(3))
    id = tokens_of(shell, user)[0]["id"]
    assert shell("user", "revoke", user, "--token", id) == f"Revoked 1 token of {user!r}.\n"
    assert f"Token '{id}' was not found." in shell("user", "revoke", user, "--token", id, code=1)
    with server.http(first) as gone, server.http(second) as valid:
        problem(gone.get("/me"), 401, "token-revoked")
        ok(valid.get("/me"))
    assert len(json.loads(shell("user", "revoke", user, "--json"))["revoked"]) == 2
    for token in (second, third):
        with server.http(token) as gone:
            problem(gone.get("/me"), 401, "token-revoked")
    assert tokens_of(shell, user) == []


def test_a_user_whom_the_database_does_not_have_is_named(shell):
    for words in (("user", "tokens", "nobody-there"), ("user", "revoke", "nobody-there")):
        assert "There is no user 'nobody-there'." in shell(*words, code=1)


@pytest.mark.parametrize(("days", "kept"), [(None, True), (365, True), (29, False), (0, False)])
def test_nestor_up_replaces_its_token_before_it_expires(server, tmp_path, days, kept):
    """A stack that was started today is not locked out tomorrow."""
    home = Home(tmp_path)
    with server.sessions.begin() as session:
        lasts = None if days is None else timedelta(days=days)
        stored = tokens.create(session, "local", Scope.admin, "nestor up", lasts)
    home.token_file.write_text(stored)
    token = prepare(server.settings, home)
    assert (token == stored) == kept
    assert home.token_file.read_text() == token
    with server.http(token) as http:
        assert ok(http.get("/me"))["scope"] == "admin"
