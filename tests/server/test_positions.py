"""Event streams and pages resume wherever they break, and each request gets the form that it asks for."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from httpx_sse._decoders import SSEDecoder, SSELineDecoder

from nestor.remote.client import Client
from nestor.schemas import EventType, State
from tests.client.cutting import cutting
from tests.server.conftest import Run, ok, problem
from tests.server.test_events import events

STREAM, JSON = "text/event-stream", "application/json"


@pytest.fixture
def ended(run: Run) -> Run:
    """A trial with events of every length: with no text, with several lines, and with characters of several bytes."""
    from nestor_server.scheduling.recording import LogRecord

    run.record(1)
    run.record(2, logs=(LogRecord(2, "zwei\nÄpfel 🍎 und\r\nmehr", "warning"), LogRecord(3, "")))
    run.checkpoint()
    run.finish(State.failed, {"code": "diverged", "detail": "NaN at step 4: ∇ = ∞."})
    return run


def received(data: bytes) -> list[tuple[str, str, str]]:
    """The complete events in the first bytes of a stream, as a client dispatches them."""
    lines, decoder = SSELineDecoder(), SSEDecoder()
    text = data.decode(errors="ignore")  # a character may be cut
    sent = filter(None, (decoder.decode(line) for line in lines.decode(text)))
    return [(event.id, event.event, event.data) for event in sent]


def test_a_stream_that_is_cut_at_any_byte_is_resumed_without_loss_or_repetition(http, ended):
    path = f"{ended.path}/events"
    whole = http.get(path).content
    seen = received(whole)
    assert [kind for _, kind, _ in seen].count("step") == 3
    assert seen[-1][1] == "end"
    rests: dict[str, list[tuple[str, str, str]]] = {}
    for length in range(len(whole)):
        begun = received(whole[:length])
        last = begun[-1][0] if begun else "0"
        if last not in rests:
            rests[last] = received(http.get(path, headers={"Last-Event-ID": last}).content)
        assert begun + rests[last] == seen, f"cut after {length} of {len(whole)} bytes"


def test_the_bytes_of_a_resumed_stream_are_the_rest_of_the_whole_one(http, ended):
    path = f"{ended.path}/events"
    whole = http.get(path).content
    ends = [i + 2 for i in range(len(whole)) if whole[i : i + 2] == b"\n\n"]
    for end in ends[:-2]:  # `end` has the id of the event before it
        last = received(whole[:end])[-1][0]
        assert http.get(path, headers={"Last-Event-ID": last}).content == whole[end:]
        assert http.get(path, params={"after": last}).content == whole[end:]


def test_a_page_that_is_lost_at_any_event_is_asked_for_again(http, ended):
    path = f"{ended.path}/events"
    whole = ok(http.get(path, params={"wait": 1}))
    for n in range(len(whole["items"])):
        after = whole["items"][n - 1]["seq"] if n else 0
        page = ok(http.get(path, params={"wait": 1, "after": after}))
        assert page == whole | {"items": whole["items"][n:]}
    again = ok(http.get(path, params={"wait": 1, "after": whole["next_after"]}))
    assert [event["type"] for event in again["items"]] == ["end"]


def test_a_stream_and_pages_have_the_same_events(http, ended):
    page = ok(http.get(f"{ended.path}/events", params={"wait": 0}))
    assert [(event["seq"], event["type"], event["data"]) for event in page["items"]] == list(events(http, ended.path))


def test_the_client_follows_a_stream_whose_connections_are_cut(server, http, ended):
    whole = http.get(f"{ended.path}/events").content
    head = 700  # about that many bytes of each answer are its head
    cuts = tuple(range(1, head + len(whole), (head + len(whole)) // 12))
    token = http.headers["Authorization"].removeprefix("Bearer ")
    with Client(server.url, token=token) as direct:
        expected = list(direct.events(ended.id))
    with cutting(server.url, received=cuts) as proxy, Client(proxy.url, token=token) as client:
        client._transport.connected_before = True  # it was, before its connections began to break
        assert list(client.events(ended.id)) == expected
    assert proxy.cut >= 6  # a stream that is further resumed is shorter


ANY = "*/*"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "wait", "form"),
    [
        (None, None, STREAM),
        (ANY, None, STREAM),
        (BROWSER, None, STREAM),
        (STREAM, None, STREAM),
        (f"{JSON}, {STREAM}", None, STREAM),
        (JSON, None, JSON),
        (f"{JSON}, {ANY}", None, JSON),
        (None, 1, JSON),
        (ANY, 1, JSON),
        (ANY, 0, JSON),
        (BROWSER, 1, JSON),
        (JSON, 1, JSON),
        (STREAM, 1, STREAM),
        (f"{JSON}, {STREAM}", 1, STREAM),
    ],
)
def test_the_form_follows_from_accept_and_wait(http, ended, accept, wait, form):
    del http.headers["Accept"]
    headers = {} if accept is None else {"Accept": accept}
    answer = http.get(f"{ended.path}/events", headers=headers, params={} if wait is None else {"wait": wait})
    assert answer.headers["Content-Type"].partition(";")[0] == form
    assert answer.headers["Vary"] == "Accept"
    assert answer.headers["X-Accel-Buffering"] == "no"
    kinds = (
        [kind for _, kind, _ in received(answer.content)]
        if form == STREAM
        else [event["type"] for event in json.loads(answer.content)["items"]]
    )
    assert kinds[-1] == EventType.end
    assert all(a != EventType.end for a, _ in pairwise(kinds))


def test_events_have_no_head(http, ended):
    """The head of a stream says nothing that a client could use, and would have to open one."""
    assert http.head(f"{ended.path}/events").status_code == 405


@pytest.mark.parametrize("wait", ["-1", "26", "soon", "inf", "nan", ""])
def test_a_wait_out_of_range_is_refused(http, ended, wait):
    problem(http.get(f"{ended.path}/events", params={"wait": wait}), 422, "validation-failed")
