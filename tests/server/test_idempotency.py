"""A POST that is repeated under the same key has one effect."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import func, update

from nestor_server.models import IdempotencyKey
from tests.server.conftest import SPEC, ok, problem


@pytest.fixture
def key() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid4())}


def test_a_repeated_request_gets_the_first_response(http, study, key):
    first, second = (http.post(f"/studies/{study}/trials", json=SPEC, headers=key) for _ in range(2))
    assert first.status_code == second.status_code == 201
    assert first.json() == second.json()
    assert first.headers["Location"] == second.headers["Location"]
    assert ("Idempotency-Replayed" in first.headers, second.headers["Idempotency-Replayed"]) == (False, "true")
    assert len(ok(http.get(f"/studies/{study}/trials"))["items"]) == 1


def test_another_request_under_the_same_key_is_refused(http, study, key):
    ok(http.post(f"/studies/{study}/trials", json=SPEC, headers=key))
    problem(http.post(f"/studies/{study}/trials", json=SPEC | {"seed": 1}, headers=key), 409, "idempotency-conflict")
    problem(http.post("/studies", json={"name": "new"}, headers=key), 409, "idempotency-conflict")


def test_an_error_does_not_use_up_the_key(http, study, key):
    problem(http.post("/studies", json={"name": "study"}, headers=key), 409, "study-exists")
    assert http.delete(f"/studies/{study}").status_code == 204
    assert http.post("/studies", json={"name": "study"}, headers=key).status_code == 201


def test_concurrent_requests_under_one_key_have_one_effect(http, study, key):
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda _: ok(http.post(f"/studies/{study}/trials", json=SPEC, headers=key)), range(6)))
    assert len({trial["id"] for trial in made}) == 1
    assert len(ok(http.get(f"/studies/{study}/trials"))["items"]) == 1


def test_keys_belong_to_one_token_and_expire_after_a_day(server, http, stranger, key):
    first = ok(http.post("/studies", json={"name": "a"}, headers=key))
    assert ok(stranger.post("/studies", json={"name": "a"}, headers=key))["id"] != first["id"]
    with server.sessions.begin() as session:
        aged = func.now() - timedelta(hours=25)
        mine = IdempotencyKey.key == key["Idempotency-Key"]
        session.execute(update(IdempotencyKey).where(mine).values(created_at=aged))
    problem(http.post("/studies", json={"name": "a"}, headers=key), 409, "study-exists")
