"""Event streams: everything once, in order, to the end, whatever happens on the way."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from httpx_sse import EventSource
from sqlalchemy import select

from nestor.schemas import State
from nestor_server.models import Study, Trial, User
from nestor_server.scheduling import event_log
from testbed.server import Server
from tests.server.conftest import Run, ok, problem

Seen = tuple[int, str, dict[str, Any]]


def events(http: httpx.Client, path: str, after: int = 0) -> Iterator[Seen]:
    with http.stream("GET", f"{path}/events", headers={"Last-Event-ID": str(after)}) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        for sent in EventSource(response).iter_sse():
            if sent.data:
                yield int(sent.id), sent.event, json.loads(sent.data)


def test_a_finished_trial_is_replayed_and_the_stream_ends(http, run):
    run.record(3)
    run.finish(State.failed, {"code": "diverged", "detail": "NaN at step 4."})

    seen = list(events(http, run.path))
    assert [kind for _, kind, _ in seen] == ["state", "state", "step", "step", "step", "state", "end"]
    assert [seq for seq, _, _ in seen] == [1, 2, 3, 4, 5, 6, 6]
    assert [data["number"] for _, kind, data in seen if kind == "step"] == [1, 2, 3]
    assert seen[-1][2]["state"] == "failed"
    assert seen[-1][2]["error"]["detail"] == "NaN at step 4."
    assert [kind for _, kind, _ in events(http, run.path, after=6)] == ["end"]


def test_events_arrive_while_they_happen(http, run):
    run.record(1)
    stream = events(http, run.path, after=2)
    assert next(stream)[1] == "step"
    for number in range(2, 6):
        began = time.monotonic()
        run.record(1)
        assert next(stream)[2]["number"] == number
        assert time.monotonic() - began < 1.5  # woken, not polled: that takes three seconds
    run.finish()
    assert [kind for _, kind, _ in stream] == ["state", "end"]


def test_a_stream_that_is_cut_again_and_again_loses_and_repeats_nothing_under_concurrent_writers(server, http, run):
    """The worker records steps while others write events of the same trial; the reader is cut at random."""
    written, done = 120, threading.Event()

    def worker() -> None:
        for _ in range(written // 4):
            run.record(4)
        done.set()

    def chatter() -> None:
        while not done.is_set():
            with server.sessions.begin() as session:
                event_log.append(session, run.id, "log", {"text": "hello"})

    writers = [threading.Thread(target=worker), *(threading.Thread(target=chatter) for _ in range(2))]
    for writer in writers:
        writer.start()
    dice, seen = random.Random(0), []
    ending = threading.Thread(target=lambda: [writer.join() for writer in writers] and run.finish())
    ending.start()
    while not seen or seen[-1][1] != "end":
        patience = dice.randint(1, 25)
        for event in events(http, run.path, after=seen[-1][0] if seen else 0):
            seen.append(event)
            patience -= 1
            if patience == 0 and event[1] != "end":
                break  # which cuts the connection
    ending.join()

    *journaled, end = seen
    assert [seq for seq, _, _ in journaled] == list(range(1, end[0] + 1))
    assert [data["number"] for _, kind, data in journaled if kind == "step"] == list(range(1, written + 1))


def test_a_rollback_is_reported_before_the_steps_that_replace_the_old_ones(server, http, run):
    run.record(2)
    run.checkpoint()
    run.record(2)
    stream = events(http, run.path)
    before = [next(stream) for _ in range(6)]
    assert [data.get("number") for _, kind, data in before if kind == "step"] == [1, 2, 3, 4]

    with server.sessions.begin() as session:
        from nestor_server.scheduling import leases

        leases.requeue(session, run.lease, "the worker is drained")
    run.claim()
    run.number = 2
    run.record(2)
    run.finish()
    after = list(stream)
    kinds = [kind for _, kind, _ in after]
    assert kinds.index("rewind") < kinds.index("step")
    assert next(data["step"] for _, kind, data in after if kind == "rewind") == 2
    assert [data["number"] for _, kind, data in after if kind == "step"] == [3, 4]
    assert [data["number"] for _, kind, data in events(http, run.path) if kind == "step"] == [1, 2, 3, 4]


def test_a_long_poll_waits_for_the_next_event(http, run):
    json_please = {"Accept": "application/json"}
    at = ok(http.get(f"{run.path}/events", headers=json_please))["next_after"]
    timer = threading.Timer(0.4, run.record)
    timer.start()
    began = time.monotonic()
    page = ok(http.get(f"{run.path}/events", params={"after": at, "wait": 20}, headers=json_please))
    assert 0.2 < time.monotonic() - began < 15  # of the 20 that it would wait for nothing
    assert [(event["type"], event["data"]["number"]) for event in page["items"]] == [("step", 1)]
    assert (page["next_after"], page["ended"]) == (at + 1, False)
    timer.join()


def test_a_long_poll_without_news_is_empty_and_one_of_a_finished_trial_ends(http, run):
    json_please = {"Accept": "application/json"}
    nothing = ok(http.get(f"{run.path}/events", params={"after": 2, "wait": 0.3}, headers=json_please))
    assert nothing == {"items": [], "next_after": 2, "ended": False}
    run.finish()
    page = ok(http.get(f"{run.path}/events", params={"after": 2, "wait": 20}, headers=json_please))
    assert [event["type"] for event in page["items"]] == ["state", "end"]
    assert page["ended"]
    problem(http.get(f"{run.path}/events", params={"wait": 26}, headers=json_please), 422, "validation-failed")


def test_a_quiet_stream_is_kept_open_by_comments(http, run):
    with http.stream("GET", f"{run.path}/events", headers={"Last-Event-ID": "2"}) as response:
        lines = response.iter_lines()
        assert next(lines).startswith(":")


def test_many_pages_of_events_come_as_one_stream(http, run):
    for _ in range(6):
        run.record(200)
    run.finish()
    numbers = [data["number"] for _, kind, data in events(http, run.path) if kind == "step"]
    assert numbers == list(range(1, 1201))


def test_a_stream_survives_the_loss_of_all_its_database_connections(server, http, run):
    from sqlalchemy import text

    stream = events(http, run.path, after=2)
    run.record(1)
    assert next(stream)[2]["number"] == 1
    with server.sessions.begin() as session:
        session.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    run.record(1)
    assert next(stream)[2]["number"] == 2
    run.finish()
    assert [kind for _, kind, _ in stream] == ["state", "end"]


@pytest.mark.parametrize("given", ["-1", "soon", str(2**64)])
def test_an_invalid_position_is_refused(http, run, given):
    problem(http.get(f"{run.path}/events", headers={"Last-Event-ID": given}), 422, "validation-failed")


def test_steps_of_one_trial_do_not_appear_in_the_stream_of_another(server, http, run, submit):
    other = Run(server, UUID(submit()["id"]))
    run.record(2)
    other.record(1)
    other.finish()
    assert [data["number"] for _, kind, data in events(http, other.path) if kind == "step"] == [1]


def owner_of(server: Server, run: Run) -> str:
    with server.sessions() as session:
        owners = select(User.name).join(Study, Study.owner_id == User.id).join(Trial).where(Trial.id == run.id)
        return session.scalars(owners).one()


def test_a_stream_ends_when_its_token_is_revoked(server, run):
    """A reader who opens it again gets the reason."""
    with server.http(server.new_token(owner_of(server, run))) as reader:
        stream = events(reader, run.path)
        next(stream)
        assert reader.delete(f"/tokens/{ok(reader.get('/me'))['token_id']}").status_code == 204
        assert [kind for _, kind, _ in stream] == ["state"]  # no `end`: the trial goes on
        problem(reader.get(f"{run.path}/events"), 401, "token-revoked")


def test_a_stream_ends_when_its_browser_logs_out_and_that_of_another_browser_goes_on(server, run):
    token, same_site = server.new_token(owner_of(server, run)), {"X-Nestor-Request": "1"}
    with server.http(None) as leaving, server.http(None) as staying:
        streams = []
        for browser in (leaving, staying):
            ok(browser.post("/session", json={"token": token}, headers=same_site))
            streams.append(events(browser, run.path))
            next(streams[-1])
        cookies = dict(leaving.cookies)
        assert leaving.delete("/session", headers=same_site).status_code == 204
        assert [kind for _, kind, _ in streams[0]] == ["state"]
        with server.http(None, cookies=cookies) as copied:
            problem(copied.get(f"{run.path}/events"), 401, "session-ended")
        run.finish()
        assert [kind for _, kind, _ in streams[1]][-1] == "end"


def test_a_stream_ends_when_the_study_is_deleted_also_if_no_worker_answers(http, run, study):
    stream = events(http, run.path)
    next(stream)
    assert http.delete(f"/studies/{study}").status_code == 204
    kinds = [kind for _, kind, _ in stream]  # it would wait for the trial otherwise
    assert "end" not in kinds
    problem(http.get(f"{run.path}/events"), 404, "trial-not-found")
