"""The event stream over connections that break at every possible place."""

from __future__ import annotations

import json
import time
from uuid import uuid4

import pytest

import nestor
from nestor.errors import PROBLEM_JSON, ServerUnreachable, TrialNotFound, Unavailable
from nestor.remote import event_stream
from nestor.remote.asynchronous import event_stream as asynchronous_stream
from nestor.schemas import Event, State
from testbed.server import free_port
from tests.client.cutting import cutting
from tests.client.problems import ridge
from tests.client.scripted import answer, hang_up, pieces, scripted


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for module in (event_stream, asynchronous_stream):
        monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.01)
        monkeypatch.setattr(module, "MAX_PAUSE_SECONDS", 0.05)


def event(seq: int, type: str = "log", **data) -> bytes:
    return f"event: {type}\nid: {seq}\ndata: {json.dumps(data | {'n': seq})}\n\n".encode()


def follow(Client, url: str, after: int = 0) -> list[Event]:
    with Client(url, "token") as client:
        return list(client.events(uuid4(), after))


END = event(4, "end", state="complete")
ALL = [1, 2, 3, 4]
WHOLE = b"".join((event(1), event(2), event(3), END))


def test_the_stream_ends_with_end(Client):
    with scripted(pieces(WHOLE)) as script:
        assert [e.seq for e in follow(Client, script.url)] == ALL
        assert len(script.requests) == 1


@pytest.mark.parametrize("at", range(0, len(WHOLE), 7))
def test_a_cut_anywhere_loses_and_repeats_nothing(Client, at):
    """Cut at each byte: complete events are not requested again, and incomplete ones arrive complete."""
    whole_before = [n for n in ALL if len(b"".join((event(1), event(2), event(3), END)[:n])) <= at]
    last = max(whole_before, default=0)
    rest = b"".join((event(1), event(2), event(3), END)[last:])
    with scripted(pieces(WHOLE[:at]), pieces(rest)) as script:
        assert [e.seq for e in follow(Client, script.url)] == ALL
        assert [request.headers["last-event-id"] for request in script.requests] == ["0", str(last)]


def test_what_is_sent_again_is_not_seen_again(Client):
    with scripted(pieces(event(1), event(2)), pieces(WHOLE)) as script:
        assert [e.seq for e in follow(Client, script.url)] == ALL


def test_it_goes_on_after_refused_connections_busy_servers_and_silent_ends(Client):
    busy = answer(503, Unavailable(part="The database").problem(), type=PROBLEM_JSON, retry_after="0.1")
    with scripted(pieces(event(1)), hang_up, busy, pieces(b": ping\n\n", event(2)), pieces(), pieces(WHOLE)) as script:
        assert [e.seq for e in follow(Client, script.url)] == ALL


def test_a_comment_is_not_an_event(Client):
    with scripted(pieces(b": ping\n\n", event(1), b": ping\n\n", event(2), event(3), b":\n\n", END)) as script:
        assert [e.data["n"] for e in follow(Client, script.url)] == ALL


def test_it_starts_at_the_given_position(Client):
    with scripted(pieces(event(3), END)) as script:
        assert [e.seq for e in follow(Client, script.url, after=2)] == [3, 4]
        assert script.requests[0].headers["last-event-id"] == "2"


def test_an_end_without_news_still_ends(Client):
    """`end` may have the number of the last entry. A reader that has seen all entries must still get it."""
    with scripted(pieces(END)) as script:
        assert [e.type for e in follow(Client, script.url, after=4)] == ["end"]


def test_a_refusal_is_raised_and_not_tried_again(Client):
    missing = TrialNotFound(trial="x")
    with scripted(answer(404, missing.problem(), type=PROBLEM_JSON)) as script:
        with pytest.raises(TrialNotFound):
            follow(Client, script.url)
        assert len(script.requests) == 1


def test_a_server_that_never_answered_is_unreachable_at_once(Client):
    with pytest.raises(ServerUnreachable, match="nestor up"):
        follow(Client, f"http://127.0.0.1:{free_port()}")


def test_it_gives_up_after_a_time_limit(Client, monkeypatch):
    for module in (event_stream, asynchronous_stream):
        monkeypatch.setattr(module, "GIVE_UP_SECONDS", 0.3)
    began = time.monotonic()
    with scripted(pieces(event(1)), hang_up) as script, pytest.raises(ServerUnreachable):
        follow(Client, script.url)
    assert 0.3 <= time.monotonic() - began < 5


def test_a_real_stream_that_is_cut_repeatedly_is_complete(Client, finished_on_server, server, token):
    """Every connection to the real server is cut a little later than the one before, until one survives."""
    trial = finished_on_server.trial
    with Client(server.url, token) as client:
        whole = list(client.events(trial.id))
    with cutting(server.url, received=tuple(range(900, 9_000, 500))) as proxy, Client(proxy.url, token) as client:
        assert list(client.events(trial.id)) == whole
    assert proxy.cut > 3
    assert [event.seq for event in whole[:-1]] == list(range(1, len(whole)))


def test_a_reader_does_not_notice_a_restart_of_the_server(server, client, worker):
    study = nestor.create_study("watched over a restart", server=client)
    trial = study.optimize(ridge(), 1_000_000, wait=False, show_progress_bar=False)
    seen, steps = [], trial.stream()
    seen += [next(steps).number for _ in range(3)]
    server.stop()
    server.start()
    trial.cancel()  # later events come from the new server
    seen += [step.number for step in steps]
    assert trial.state is State.cancelled
    assert seen == list(range(1, len(seen) + 1))
