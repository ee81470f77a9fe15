"""A worker that drains: what it is refused, what it is asked, and how it takes trials again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from nestor.schemas import Desired, EventType, State
from nestor_server.database import Sessions, make_engine, make_sessions
from nestor_server.models import Trial, Worker
from nestor_server.scheduling import fair_share, leases
from nestor_server.services import workers
from nestor_server.settings import Settings
from nestor_worker.supervisor.heartbeat import Presence
from nestor_worker.supervisor.runners.process import Runner
from nestor_worker.supervisor.tally import Tally
from testbed.tcp_proxy import TcpProxy
from tests.worker.trials import claim, events


@pytest.fixture(autouse=True)
def alone(sessions: Sessions) -> Iterator[None]:
    """Without trials and workers of other tests."""
    with sessions.begin() as session:
        session.execute(update(Trial).values(state=State.cancelled.value))
    yield
    with sessions.begin() as session:
        session.execute(delete(Worker))


def register(sessions: Sessions, name: str, *, drains: bool) -> None:
    since = datetime.now(UTC) if drains else None
    with sessions.begin() as session:
        session.add(Worker(id=name, device="cpu", versions={}, draining_since=since))


def claim_next(sessions: Sessions, trial_id: UUID, owner: str) -> leases.Lease | None:
    with sessions.begin() as session:
        return leases.claim_next(session, trial_id, owner)


def resent(sessions: Sessions) -> list[UUID]:
    """The trials of which the reaper sends messages."""
    with sessions.begin() as session:
        return leases.sweep_expired(session)


def test_a_worker_that_drains_gets_no_trial_and_the_message_that_it_used_up_is_sent_again(sessions, new_trial):
    register(sessions, "w1", drains=True)
    trial = new_trial()
    assert claim_next(sessions, trial.id, "w1") is None
    assert resent(sessions) == []  # nobody would take it
    register(sessions, "w2", drains=False)
    assert resent(sessions) == [trial.id]
    assert claim_next(sessions, trial.id, "w2") is not None
    with sessions() as session:
        assert session.get_one(Worker, "w2").trial_id == trial.id  # so that it never looks idle meanwhile


@pytest.mark.parametrize("desired", list(Desired))
def test_only_trials_that_shall_run_are_asked_to_yield(sessions, new_trial, desired):
    register(sessions, "w1", drains=True)
    register(sessions, "w2", drains=False)
    trials = {owner: new_trial() for owner in ("w1", "w2", "unknown")}
    for owner, trial in trials.items():
        claim(sessions, trial.id, owner)
    with sessions.begin() as session:
        session.execute(update(Trial).where(Trial.is_running).values(desired=desired.value))
        fair_share.vacate(session)
    with sessions() as session:
        rows = session.execute(select(Trial.lease_owner, Trial.desired).where(Trial.is_running))
        asked = dict(rows.all())
    assert asked["w1"] == ("preempt" if desired is Desired.run else desired.value)
    assert asked["w2"] == asked["unknown"] == desired.value


@pytest.mark.parametrize("desired", list(Desired))
def test_trials_that_were_asked_to_yield_go_on_if_their_worker_does_not_drain_any_more(sessions, new_trial, desired):
    trials = {owner: new_trial() for owner in ("w1/0", "w2/0")}
    for owner, trial in trials.items():
        register(sessions, owner, drains=True)
        claim(sessions, trial.id, owner)
    with sessions.begin() as session:
        session.execute(update(Trial).where(Trial.is_running).values(desired=desired.value))
        workers.drain(session, uuid4(), "w1", drains=False)
    resent(sessions)
    with sessions() as session:
        asked = {owner: session.get_one(Trial, trial.id).desired for owner, trial in trials.items()}
    assert asked["w1/0"] == ("run" if desired is Desired.preempt else desired.value)
    assert asked["w2/0"] == ("preempt" if desired is Desired.run else desired.value)


def test_a_user_who_takes_back_a_stop_does_not_keep_the_worker_from_draining(sessions, new_trial):
    register(sessions, "w1", drains=True)
    trial = new_trial()
    claim(sessions, trial.id, "w1")
    with sessions.begin() as session:
        row = session.get_one(Trial, trial.id)
        leases.request(session, row, "stop")
        leases.request(session, row, "resume")
        assert row.desired == "run"
    resent(sessions)
    with sessions() as session:
        assert session.get_one(Trial, trial.id).desired == "preempt"


@pytest.mark.parametrize("drains", [True, False])
def test_the_reason_names_who_the_trial_yields_to_and_nothing_is_paid(sessions, new_trial, drains):
    register(sessions, "w1", drains=drains)
    trial = new_trial()
    lease = claim(sessions, trial.id, "w1")
    with sessions.begin() as session:
        assert leases.yield_device(session, lease) == (State.queued, drains)
        why = events(session, trial.id, EventType.state)[-1]["why"]
        row = session.get_one(Trial, trial.id)
    assert why == (leases.WHY_DRAINED if drains else leases.WHY_PREEMPTED)
    assert (row.restarts, row.preemptions) == (0, 0)


def test_a_process_learns_that_it_drains_and_one_of_the_same_name_starts_anew(sessions: Sessions):
    settings = Settings(heartbeat_seconds=3600)
    learned: list[bool] = []
    slots = {"host:1/0": "cpu", "host:1/1": "cpu"}

    def set_draining(since: object) -> None:
        with sessions.begin() as session:
            session.execute(update(Worker).where(Worker.id.in_(slots)).values(draining_since=since))

    first = Presence(sessions, settings, slots, {}, Tally(), learned.append)
    first.start()
    assert learned == []
    set_draining(func.now() - timedelta(hours=1))
    first.beat()
    assert learned == [True]
    set_draining(None)
    first.beat()
    assert learned == [True, False]
    set_draining(func.now())
    first.beat()
    with sessions() as session:
        began = session.get_one(Worker, "host:1/0").started_at

    again = Presence(
        sessions, settings, slots, {}, Tally(), learned.append
    )  # its process has the same id, as in a container
    again.start()
    with sessions() as session:
        rows = [session.get_one(Worker, name) for name in slots]
    assert [row.draining_since for row in rows] == [None, None]
    assert all(row.started_at > began for row in rows)
    assert learned == [True, False, True]
    for presence in (first, again):
        presence.stop()


def test_a_worker_that_holds_a_trial_does_not_look_drained_before_its_runner_begins(sessions: Sessions, new_trial):
    """Whatever heartbeats are made: also one that begins while the trial is claimed."""
    presence = Presence(sessions, Settings(heartbeat_seconds=3600), {"host:1": "cpu"}, {}, Tally(), lambda _: None)
    presence.start()
    beat = threading.Thread(target=presence.beat)
    trial = new_trial()

    def claim(session: Session) -> leases.Lease | None:
        lease = leases.claim_next(session, trial.id, "host:1")
        beat.start()  # its row is locked now
        return lease

    def shown() -> UUID | None:
        with sessions() as session:
            return session.get_one(Worker, "host:1").trial_id

    assert presence.claim("host:1", claim) is not None
    beat.join()
    assert shown() == trial.id
    with suppress(OSError), presence.busy("host:1"):
        presence.beat()
        assert shown() == trial.id
        raise OSError("its runner cannot be spawned")
    assert shown() is None
    presence.stop()


@pytest.fixture
def proxied(worker_settings: Settings) -> Iterator[tuple[TcpProxy, Sessions]]:
    """The database behind a proxy."""
    proxy = TcpProxy(worker_settings.database_url)
    settings = worker_settings.model_copy(update={"database_url": proxy.url})
    engine = make_engine(settings)
    yield proxy, make_sessions(engine, settings)
    engine.dispose()
    proxy.close()


@pytest.mark.parametrize("asked", ["before it began", "since then"])
def test_if_the_first_heartbeat_is_not_written_the_next_one_says_that_the_process_is_new(sessions, proxied, asked):
    """A row of an earlier process has its name, and only a drain of the process itself counts."""
    proxy, through = proxied
    register(sessions, "host:1", drains=asked == "before it began")
    with sessions() as session:
        began = session.get_one(Worker, "host:1").started_at
    learned: list[bool] = []
    presence = Presence(through, Settings(heartbeat_seconds=3600), {"host:1": "cpu"}, {}, Tally(), learned.append)
    proxy.block()
    presence.start()
    if asked == "since then":
        with sessions.begin() as session:
            soon = func.now() + timedelta(seconds=1)  # so that it does not matter how long a connection takes
            session.get_one(Worker, "host:1").draining_since = soon
    proxy.unblock()
    presence.beat()
    presence.beat()
    with sessions() as session:
        row = session.get_one(Worker, "host:1")
    assert row.started_at > began
    assert (row.draining_since is not None) == (asked == "since then")
    assert learned == ([True] if asked == "since then" else [])
    presence.stop()
    presence.beat()  # of a trial that ends late
    with sessions() as session:
        assert session.get(Worker, "host:1") is None


def test_a_heartbeat_that_is_slow_does_not_hide_a_trial_that_began_meanwhile(sessions, new_trial, monkeypatch):
    presence = Presence(sessions, Settings(heartbeat_seconds=3600), {"w1": "cpu"}, {}, Tally(), lambda drains: None)
    trial, runner = new_trial(), cast("Runner", SimpleNamespace(resident_bytes=17))
    has_read, goes_on, begins, ends = (threading.Event() for _ in range(4))
    rows = presence._rows

    def read_slowly() -> list[dict[str, Any]]:
        found = rows()
        if threading.current_thread() is slow:
            has_read.set()
            assert goes_on.wait(60)
        return found

    def run_trial() -> None:
        assert presence.claim("w1", lambda session: leases.claim_next(session, trial.id, "w1")) is not None
        with presence.busy("w1") as attach:
            attach(runner)
            begins.set()
            assert ends.wait(60)

    monkeypatch.setattr(presence, "_rows", read_slowly)
    slow, runs = threading.Thread(target=presence.beat), threading.Thread(target=run_trial)
    slow.start()
    assert has_read.wait(60)
    runs.start()
    assert not begins.wait(0.2)  # it waits for the heartbeat, which would otherwise be written after it
    goes_on.set()
    assert begins.wait(60)
    presence.beat()
    with sessions() as session:
        row = session.get_one(Worker, "w1")
    assert (row.trial_id, row.runner_bytes) == (trial.id, 17)
    ends.set()
    for thread in (slow, runs):
        thread.join(60)
    with sessions() as session:
        row = session.get_one(Worker, "w1")
    assert (row.trial_id, row.runner_bytes) == (None, None)


def test_a_trial_of_an_unknown_worker_is_claimed(sessions, new_trial):
    """Its row may have been lost: it does not drain."""
    assert claim_next(sessions, new_trial().id, f"w-{uuid4()}") is not None
