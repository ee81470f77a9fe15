"""How much of the server a user may take: requests, streams, studies, trials, and bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import select, update

import nestor
from nestor import errors
from nestor.schemas import State
from nestor_server.limits import quotas
from nestor_server.limits.rates import RequestRate
from nestor_server.limits.remembered import Remembered
from nestor_server.models import IdempotencyKey, Trial
from nestor_server.services.access import tokens
from nestor_server.storage import garbage_collection
from testbed.server import Server, running_server, wait_for
from testbed.services import Services
from tests.server.conftest import BROKER, SPEC, ok, problem
from tests.server.test_references import split

KIB = 2**10
LIMITS = {
    "max_streams": 3,
    "max_studies": 4,
    "max_trials": 8,
    "max_unfinished_trials": 3,
    "max_stored_bytes": 64 * KIB,
    "keep_unused_days": 0.0,
    "stream_ping_seconds": 0.5,
}


@pytest.fixture(scope="module")
def server(services: Services) -> Iterator[Server]:
    """A server whose users may have little, but may ask as often as they like."""
    with running_server(services, redis_db=BROKER, **LIMITS) as server:
        yield server


def announce(http: httpx.Client, size: int, digest: str | None = None) -> httpx.Response:
    return http.post("/blobs", json={"digest": f"sha256:{digest or uuid4().hex * 2}", "size": size})


def study_of(http: httpx.Client) -> str:
    return ok(http.post("/studies", json={"name": uuid4().hex}))["id"]


def submit(http: httpx.Client, study: str) -> httpx.Response:
    return http.post(f"/studies/{study}/trials", json=SPEC)


def refused(response: httpx.Response, setting: str, *, after: int) -> None:
    document = problem(response, 429, "quota-exceeded")
    assert document["retryable"]
    assert f"or ask the server's operator to raise NESTOR_{setting.upper()}." in document["detail"]
    assert document["context"]["limit"] == LIMITS[setting]
    assert response.headers["Retry-After"] == str(after)


# --- what users have ------------------------------------------------------------------------------


def test_studies_are_counted_also_when_deleted_and_other_users_have_their_own(http, stranger):
    """Else a user who creates and deletes in turn would fill the disk until the deleted ones are purged."""
    first = study_of(http)
    for _ in range(LIMITS["max_studies"] - 1):
        study_of(http)
    assert http.delete(f"/studies/{first}").status_code == 204
    refused(http.post("/studies", json={"name": "one more"}), "max_studies", after=3600)
    study_of(stranger)


def test_an_existing_study_is_loaded_however_many_there_are(http):
    for name in "abcd":
        ok(http.post("/studies", json={"name": name}))
    assert http.post("/studies", json={"name": "a", "load_if_exists": True}).status_code == 200


def test_purged_studies_are_no_longer_counted(server, http):
    studies = [study_of(http) for _ in range(LIMITS["max_studies"])]
    refused(http.post("/studies", json={"name": "one more"}), "max_studies", after=3600)
    assert http.delete(f"/studies/{studies[0]}").status_code == 204
    with server.sessions.begin() as session:
        garbage_collection.purge_expired(session)
    wait_for(lambda: http.post("/studies", json={"name": "one more"}).status_code == 201, "the count to be read again")


def test_unfinished_trials_are_counted_until_they_end(http):
    study = study_of(http)
    trials = [ok(submit(http, study))["id"] for _ in range(LIMITS["max_unfinished_trials"])]
    refused(submit(http, study), "max_unfinished_trials", after=60)
    ok(http.post(f"/trials/{trials[0]}/cancel"))
    wait_for(lambda: submit(http, study).status_code == 201, "the count to be read again")
    refused(http.post(f"/trials/{trials[0]}/retry"), "max_unfinished_trials", after=60)


def test_a_finished_trial_is_extended_only_within_the_limit(server, http):
    study = study_of(http)
    done = ok(submit(http, study))["id"]
    with server.sessions.begin() as session:
        finished = {"state": State.complete.value, "step": 1000}
        session.execute(update(Trial).where(Trial.id == UUID(done)).values(finished))
    for _ in range(LIMITS["max_unfinished_trials"] - 1):
        ok(submit(http, study))
    wait_for(lambda: submit(http, study).status_code == 201, "the count to be read again")
    refused(http.post(f"/trials/{done}/extend", json={"steps": 1}), "max_unfinished_trials", after=60)


def test_trials_are_counted_also_by_copies(server, http):
    study = study_of(http)
    for _ in range(3):
        ok(submit(http, study))
    with server.sessions.begin() as session:
        mine = update(Trial).where(Trial.study_id == UUID(study)).values(state=State.complete.value)
        session.execute(mine)
    ok(http.post(f"/studies/{study}/copy", json={"name": "copy"}))  # six
    refused(http.post(f"/studies/{study}/copy", json={"name": "again"}), "max_trials", after=3600)
    wait_for(lambda: submit(http, study).status_code == 201, "the count to be read again")  # seven
    ok(submit(http, study))
    refused(submit(http, study), "max_trials", after=3600)


def test_announced_bytes_are_counted_each_announcement_once(http, stranger):
    """As many as an announcement says, so that fifty announcements of 8 GiB are not fifty times allowed."""
    for _ in range(3):
        assert announce(http, 60 * KIB, 64 * "a").status_code == 201  # one upload, which resumes
    refused(announce(http, 5 * KIB), "max_stored_bytes", after=3600)
    assert announce(http, 4 * KIB).status_code == 201
    refused(announce(http, 1), "max_stored_bytes", after=3600)
    assert announce(stranger, 60 * KIB).status_code == 201


def test_a_blob_takes_at_least_four_kib(http):
    """Its rows take room, too: a million blobs of one byte are no megabyte."""
    for _ in range(16):
        assert announce(http, 1).status_code == 201
    refused(announce(http, 1), "max_stored_bytes", after=3600)


def test_a_user_without_room_submits_no_trial(http):
    study = study_of(http)
    assert announce(http, 64 * KIB).status_code == 201
    refused(submit(http, study), "max_stored_bytes", after=3600)


def test_data_sets_by_reference_take_bytes(http):
    data = {"train": split(), "val": split()}
    for _ in range(12):
        ok(http.post("/datasets", json=data))
    refused([http.post("/datasets", json=data) for _ in range(4)][-1], "max_stored_bytes", after=3600)


def test_concurrent_announcements_do_not_slip_through(server):
    """Each of them would fit by itself."""
    with server.http(server.new_token()) as http:
        ok(http.get("/me"))
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda: answers.append(announce(http, 30 * KIB).status_code)) for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(answers) == [201] * 2 + [429] * 10


def test_what_a_user_has_is_what_the_limits_are_about(server, http):
    """Every amount has a setting and a sentence, and what the database says is what was taken."""
    study = study_of(http)
    ok(submit(http, study))
    assert announce(http, 5 * KIB).status_code == 201
    with server.sessions() as session:
        caller = tokens.authenticate(session, token_of(http))
        found = session.execute(select(*quotas.usage(caller.user_id))).one()
    assert quotas.Amounts(*map(int, found)) == quotas.Amounts(1, 1, 1, 5 * KIB)
    assert quotas.limits(server.settings) == quotas.Amounts(4, 8, 3, 64 * KIB)


def test_a_user_has_a_bounded_number_of_tokens(server, monkeypatch):
    monkeypatch.setattr(tokens, "MOST", 2)
    with server.sessions() as session:
        caller = tokens.authenticate(session, server.new_token())
        tokens.issue(session, caller.user_id, nestor.schemas.TokenCreate())
        with pytest.raises(errors.TooManyTokens):
            tokens.issue(session, caller.user_id, nestor.schemas.TokenCreate())


def test_of_each_token_the_newest_idempotency_keys_are_kept(server, http, monkeypatch):
    """Each holds an answer of up to a hundred kilobytes."""
    monkeypatch.setattr(garbage_collection, "MOST_IDEMPOTENCY_KEYS", 2)
    token_id = UUID(ok(http.get("/me"))["token_id"])
    for key in "abcd":
        ok(http.post("/studies", json={"name": key}, headers={"Idempotency-Key": key}))
    with server.sessions.begin() as session:
        garbage_collection.purge_idempotency_keys(session)
        kept = session.scalars(select(IdempotencyKey.key).where(IdempotencyKey.token_id == token_id)).all()
    assert set(kept) == {"c", "d"}


# --- streams --------------------------------------------------------------------------------------


def test_streams_are_counted_while_they_are_open(http, stranger):
    study = study_of(http)
    path = f"/trials/{ok(submit(http, study))['id']}/events"
    stream = {"Accept": "text/event-stream"}
    with ExitStack() as open_streams:
        for _ in range(LIMITS["max_streams"]):
            lines = open_streams.enter_context(http.stream("GET", path, headers=stream)).iter_lines()
            next(lines)
            open_streams.callback(lines.close)  # a reference: a forgotten iterator closes its connection
        for headers, params in ((stream, {}), ({}, {"wait": 1, "after": 1})):
            response = http.get(path, headers=headers, params=params)
            document = problem(response, 429, "too-many-streams")
            assert "NESTOR_MAX_STREAMS" in document["detail"]
            assert response.headers["Retry-After"] == "10"
        ok(http.get(path, params={"wait": 0}))  # waits for nothing
        problem(stranger.get(path), 404, "trial-not-found")

    def opens() -> bool:
        with http.stream("GET", path, headers=stream) as response:
            return response.status_code == 200

    wait_for(opens, "the streams to be closed on the server")


# --- requests -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slow(services: Services) -> Iterator[Server]:
    """A server of thirty requests a minute: then one every two seconds."""
    with running_server(services, redis_db=BROKER, max_requests_per_minute=30) as server:
        yield server


REQUESTS: dict[str, Callable[[httpx.Client], httpx.Response]] = {
    "a read": lambda http: http.get("/me"),
    "what is not there": lambda http: http.get(f"/trials/{uuid4()}"),
    "a body that is wrong": lambda http: http.post("/studies", json={"x": 1}),
    "a scope that is too server": lambda http: http.post("/tokens", json={}),
    "another spelling of the header": lambda http: http.get("/me", headers=respelled(http)),
    "a login": lambda http: http.post("/session", json={"token": token_of(http)}, headers={"X-Nestor-Request": "1"}),
    "a stream": lambda http: http.get(f"/trials/{uuid4()}/events"),
}


def token_of(http: httpx.Client) -> str:
    return http.headers["Authorization"].removeprefix("Bearer ")


def respelled(http: httpx.Client) -> dict[str, str]:
    """The token in a header that the server has not seen before."""
    spaces = next(count)
    return {"Authorization": http.headers["Authorization"].replace(" ", " " * (2 + spaces % 100))}


count = iter(range(10**9))


@pytest.mark.parametrize("kind", REQUESTS)
def test_requests_beyond_the_rate_are_refused_until_the_server_says(slow, kind):
    with slow.http(slow.new_token()) as http:
        answers = [REQUESTS[kind](http) for _ in range(31)]
        assert 429 not in [answer.status_code for answer in answers[:29]]
        document = problem(answers[-1], 429, "too-many-requests")
        assert "more than 30 requests a minute" in document["detail"]
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= 2
    with slow.http(slow.new_token()) as another:
        ok(another.get("/me"))


def test_the_tokens_and_sessions_of_a_user_share_the_rate(slow):
    user = f"user-{uuid4().hex[:12]}"
    with slow.http(slow.new_token(user)) as http, slow.http(None) as browser:
        same_site = {"X-Nestor-Request": "1"}
        ok(browser.post("/session", json={"token": slow.new_token(user)}, headers=same_site))
        answers = [client.get("/me").status_code for _ in range(16) for client in (http, browser)]
    assert answers[:29] == [200] * 29
    assert answers[-1] == 429


def test_a_refused_body_is_not_read(slow):
    with slow.http(slow.new_token()) as http:
        while http.get("/me").status_code != 429:
            pass
        problem(http.post("/studies", content=b"[" * 2**20), 429, "too-many-requests")


def test_the_client_waits_as_long_as_the_server_says_and_goes_on(slow):
    """Also over more refusals than it makes attempts after failures."""
    with nestor.Client(slow.url, slow.new_token()) as client:
        for _ in range(40):
            client.me()


def test_the_client_does_not_wait_for_what_waiting_does_not_change(server, http):
    with nestor.Client(server.url, token_of(http)) as client:
        for name in "abcd":
            nestor.create_study(name, server=client)
        with pytest.raises(errors.QuotaExceeded, match="you would have 5 studies"):
            nestor.create_study("e", server=client)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def requests_until_refused(rate: RequestRate, user: UUID) -> int:
    n = 0
    while True:
        try:
            rate.take(user)
        except errors.TooManyRequests:
            return n
        n += 1


def test_a_rate_allows_a_minutes_requests_at_once_and_then_as_many_as_have_become_free():
    clock, user = Clock(), uuid4()
    rate = RequestRate(60, clock)
    assert requests_until_refused(rate, user) == 60
    for passed, free in ((1.0, 1), (5.5, 5), (0.5, 1), (60.0, 60), (1000.0, 60)):
        clock.now += passed
        assert requests_until_refused(rate, user) == free


def test_a_refusal_names_the_second_from_which_a_request_is_allowed():
    clock, user = Clock(), uuid4()
    rate = RequestRate(2, clock)
    requests_until_refused(rate, user)
    with pytest.raises(errors.TooManyRequests) as refusal:
        rate.take(user)
    clock.now += refusal.value.context["retry_after"]
    rate.take(user)


def test_a_bounded_number_of_values_is_remembered_those_that_were_put_last():
    remembered = Remembered[str, int](2)
    for key, value in (("a", 1), ("b", 2), ("a", 3), ("c", 4)):
        remembered.put(key, value)
    assert [remembered.get(key) for key in "abc"] == [3, None, 4]
    assert len(remembered) == 2
