"""Every action in every situation of a trial's life, in this process and on a server: the same answers and events."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from nestor import Client, lifecycle
from nestor.schemas import Desired, Event, State
from testbed.server import Server, running_server
from testbed.services import Services
from tests.client.players import REASON, InProcess, OnServer, Player, standing

BROKER = 11  # a database of Valkey that no other test uses: no worker may take these trials
SITUATIONS: dict[tuple[State, Desired], list[list[str]]] = {  # (state, desired) → moves that lead there
    (State.queued, Desired.run): [[], ["pause", "resume"], ["claim", "pause", "obey", "resume"]],
    (State.running, Desired.run): [["claim"], ["claim", "pause", "resume"], ["claim", "fail", "retry", "claim"]],
    (State.running, Desired.stop): [["claim", "stop"]],
    (State.running, Desired.prune): [["claim", "prune"], ["claim", "pause", "prune"]],
    (State.running, Desired.pause): [["claim", "pause"], ["claim", "stop", "pause"]],
    (State.running, Desired.cancel): [["claim", "cancel"], ["claim", "pause", "cancel"]],
    (State.paused, Desired.pause): [["pause"], ["claim", "pause", "obey"]],
    (State.complete, Desired.run): [["claim", "complete"], ["claim", "complete", "extend", "claim", "complete"]],
    (State.complete, Desired.stop): [["stop"], ["pause", "stop"], ["claim", "stop", "obey"]],
    (State.pruned, Desired.prune): [["prune"], ["pause", "prune"], ["claim", "prune", "obey"]],
    (State.failed, Desired.run): [["claim", "fail"]],
    (State.failed, Desired.stop): [["claim", "stop", "fail"]],
    (State.failed, Desired.prune): [["claim", "prune", "fail"]],
    (State.failed, Desired.pause): [["claim", "pause", "fail"]],
    (State.failed, Desired.cancel): [["claim", "cancel", "fail"]],
    (State.cancelled, Desired.cancel): [["cancel"], ["pause", "cancel"], ["claim", "cancel", "obey"]],
}
WAYS = [(*there, moves) for there, ways in SITUATIONS.items() for moves in ways]


@pytest.fixture(scope="module")
def server(services: Services) -> Iterator[Server]:
    patient: dict[str, Any] = {
        "lease_seconds": 3600,
        "answer_seconds": 3600,
        "slice_seconds": 3600,
        "requeue_after_seconds": 3600,
    }
    with running_server(services, redis_db=BROKER, **patient) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, server.new_token()) as client:
        yield client


@pytest.fixture
def players(server: Server, client: Client, tmp_path: Path) -> tuple[Player, Player]:
    return InProcess(), OnServer(server, client, tmp_path)


def recorded(events: list[Event]) -> list[tuple[Any, ...]]:
    """Events without times and names; who changed something is the user or a worker."""
    found: list[tuple[Any, ...]] = []
    for event in events:
        data = {key: value for key, value in event.data.items() if key not in ("at", "seconds")}
        if "by" in data:
            data["by"] = "user" if data["by"].startswith("user") else "worker"
        found.append((event.seq, event.type, data))
    return found


def ended(player: Player) -> list[tuple[Any, ...]]:
    return [(attempt.number, attempt.state, attempt.why, attempt.ended_at is None) for attempt in player.attempts()]


def described(value: Any) -> str:
    return " ".join(value) or "submitted" if isinstance(value, list) else str(value)


def bring(players: tuple[Player, Player], moves: list[str], state: State, desired: Desired) -> None:
    for player in players:
        for move in moves:
            player.play(move)
        assert (player.record.state, player.record.desired) == (state, desired)
        assert player.record.allowed_actions == lifecycle.allowed_actions(state, desired)


@pytest.mark.parametrize(("state", "desired", "moves"), WAYS, ids=described)
def test_what_is_not_allowed_is_answered_alike_and_changes_nothing(players, state, desired, moves):
    bring(players, moves, state, desired)
    here, there = players
    before = standing(here.record)
    for action in sorted(set(lifecycle.MEANINGS) - set(lifecycle.allowed_actions(state, desired))):
        answer = here.ask(action)
        assert answer == there.ask(action)
        assert answer == before or answer[0] == "IllegalTransition"
        assert standing(here.record) == standing(there.record) == before
    compare_the_ends(here, there)


@pytest.mark.parametrize(
    ("state", "desired", "moves", "action"),
    [(*to, ways[0], action) for to, ways in SITUATIONS.items() for action in lifecycle.allowed_actions(*to)],
    ids=described,
)
def test_what_is_allowed_is_done_alike_and_recorded_alike(players, state, desired, moves, action):
    bring(players, moves, state, desired)
    here, there = players
    answer = here.ask(action)
    assert answer == there.ask(action)
    assert isinstance(answer[0], State)
    assert answer[:2] != (state, desired)
    compare_the_ends(here, there)


def compare_the_ends(here: Player, there: Player) -> None:
    """Let both go on, and compare all that they recorded."""
    for player in (here, there):
        player.settle()
    assert standing(here.record) == standing(there.record)
    events = recorded(here.events())
    assert events == recorded(there.events())
    assert ended(here) == ended(there)
    assert_legal(events)


def assert_legal(events: list[tuple[Any, ...]]) -> None:
    """Each change of state in the events is a transition of the table."""
    states = [State(data["state"]) for _, kind, data in events if kind == "state"]
    assert states[0] is State.queued
    legal = {(source, transition.target) for transition in lifecycle.TRANSITIONS for source in transition.sources}
    assert {pair for pair in pairwise(states) if pair[0] is not pair[1]} <= legal


def test_the_situations_are_all_that_a_user_can_bring_about():
    """But for the states of a trial that is preempted, which only a server does."""
    reached, todo = set(), {(State.queued, Desired.run)}
    while todo:
        state, desired = todo.pop()
        reached.add((state, desired))
        following = set()
        for action in lifecycle.allowed_actions(state, desired):
            meaning = lifecycle.MEANINGS[action]
            wanted = meaning.desired or Desired.run
            following.add((state if state is State.running else meaning.transition.target, wanted))
        if state is State.queued:
            following.add((State.running, desired))
        if state is State.running:
            following.add((State.failed, desired))
            ends = [lifecycle.OBEDIENCE[desired].transition] if desired in lifecycle.OBEDIENCE else [lifecycle.COMPLETE]
            following |= {(end.target, desired) for end in ends}
        todo |= following - reached
    assert reached == set(SITUATIONS)


def test_a_cancellation_is_not_taken_back_while_a_step_is_under_way(players):
    for player in players:
        player.claim()
        player.do("cancel")
        words = "A trial that is being cancelled cannot pause. From here it can: nothing else."
        assert player.ask("pause") == ("IllegalTransition", words)
        player.obey()
        assert player.record.state is State.cancelled


def test_a_paused_trial_is_not_retried_and_a_failed_one_not_extended(players):
    for player in players:
        player.do("pause")
        words = "A trial that is paused cannot retry. From here it can: resume, stop, cancel, prune, extend."
        assert player.ask("retry") == ("IllegalTransition", words)
        player.do("resume")
        player.claim()
        player.fail()
        words = "A trial that is failed cannot extend. From here it can: retry."
        assert player.ask("extend") == ("IllegalTransition", words)


def test_a_failure_is_described_alike(players):
    for player in players:
        player.claim()
        player.fail()
        error = player.record.error
        assert error is not None
        assert error["code"] == "problem-failed"
        assert error["type"] == "https://nestor.invalid/errors/problem-failed"
        assert error["title"] == "Problem Failed"
        assert error["detail"].startswith(f"The problem's own functions failed with RuntimeError: {REASON}. Run ")
