"""Every move of a trial, legal and illegal, against a real database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import product

import pytest
from sqlalchemy import func, select, update

from nestor.errors import IllegalTransition
from nestor.schemas import Desired, EventType, State
from nestor.schemas import Step as StepRecord
from nestor_server.models import Blob, Event, Snapshot, Step, Trial
from nestor_server.services import lifecycle, recording
from nestor_server.services.lifecycle import LeaseLost
from nestor_server.services.recording import Batch, Tensors

ILLEGAL = object()
ASKED = {  # (state, what the user asks for) → the state after it
    (State.queued, Desired.run): State.queued,
    (State.queued, Desired.stop): State.complete,
    (State.queued, Desired.cancel): State.cancelled,
    (State.queued, Desired.pause): State.paused,
    (State.running, Desired.run): State.running,
    (State.running, Desired.stop): State.running,
    (State.running, Desired.cancel): State.running,
    (State.running, Desired.pause): State.running,
    (State.paused, Desired.run): State.queued,
    (State.paused, Desired.stop): State.complete,
    (State.paused, Desired.cancel): State.cancelled,
    (State.paused, Desired.pause): State.paused,
    (State.complete, Desired.stop): State.complete,
    (State.cancelled, Desired.cancel): State.cancelled,
}


def step(number: int, val_loss: float = 1.0) -> StepRecord:
    return StepRecord(
        number=number,
        train_loss=1.0,
        val_loss=val_loss,
        hypergradient_norm=1.0,
        inner_gradient_norm=1.0,
        outcome="truncated",
    )


def events(session, trial_id, type: EventType) -> list[dict]:
    query = select(Event.data).where(Event.trial_id == trial_id, Event.type == type.value).order_by(Event.seq)
    return list(session.scalars(query))


def expire(sessions, trial_id) -> None:
    with sessions.begin() as session:
        ago = func.now() - timedelta(seconds=1)
        session.execute(update(Trial).where(Trial.id == trial_id).values(lease_expires_at=ago))


def claim(sessions, trial_id, owner="w1"):
    with sessions.begin() as session:
        lease = lifecycle.claim(session, trial_id, owner)
    assert lease is not None
    return lease


@pytest.mark.parametrize(("state", "desired"), list(product(State, Desired)), ids=str)
def test_a_wish_is_granted_refused_or_handed_to_the_worker(session, new_trial, state: State, desired: Desired):
    trial = session.merge(new_trial(state))
    expected = ASKED.get((state, desired), ILLEGAL)
    if expected is ILLEGAL:
        with pytest.raises(IllegalTransition, match=f"A trial that is {state.value} cannot"):
            lifecycle.request(session, trial, desired)
        return
    after = lifecycle.request(session, trial, desired)
    assert after.state == expected
    again = lifecycle.request(session, after, desired)
    assert (again.state, again.seq) == (expected, after.seq)
    if state is State.running:
        assert after.desired == desired


def test_a_refusal_says_what_is_allowed(session, new_trial):
    trial = session.merge(new_trial(State.paused))
    lifecycle.request(session, trial, Desired.cancel)
    with pytest.raises(IllegalTransition, match="From here it can: nothing"):
        lifecycle.request(session, trial, Desired.run)
    assert lifecycle.allowed(State.paused) == ["resume", "stop", "cancel"]


def test_a_cancellation_cannot_be_taken_back(session, new_trial):
    trial = session.merge(new_trial(State.running))
    lifecycle.request(session, trial, Desired.cancel)
    with pytest.raises(IllegalTransition, match="being cancelled"):
        lifecycle.request(session, trial, Desired.run)


def test_a_resumed_trial_is_sent_once_it_is_committed(session, new_trial, sent):
    trial = session.merge(new_trial(State.paused))
    lifecycle.request(session, trial, Desired.run)
    assert sent == []
    session.commit()
    assert sent == [trial.id]


@pytest.mark.parametrize("state", State, ids=str)
def test_only_a_queued_trial_can_be_claimed(session, new_trial, state: State):
    lease = lifecycle.claim(session, new_trial(state).id, "w1")
    assert (lease is not None) == (state is State.queued)


@pytest.mark.parametrize("end", [State.complete, State.failed, State.cancelled, State.paused], ids=str)
def test_the_lease_ends_with_the_attempt(sessions, session, new_trial, end: State):
    trial = new_trial(desired=Desired.pause if end is State.paused else Desired.run)
    lease = claim(sessions, trial.id)
    assert lifecycle.finish(session, lease, end, {"code": "x"} if end is State.failed else None, why="so") is end
    row = session.get_one(Trial, trial.id)
    assert (row.state, row.lease_owner, row.lease_expires_at) == (end, None, None)
    assert (row.finished_at is not None) == end.finished
    told = events(session, trial.id, EventType.state)[-1]
    assert (told["state"], told["by"], told["why"], told["attempt"]) == (end, "w1", "so", 1)
    with pytest.raises(LeaseLost):
        lifecycle.renew(session, lease)


def test_of_many_claims_exactly_one_wins(sessions, new_trial):
    for _ in range(5):
        trial, barrier = new_trial(), threading.Barrier(8)

        def attempt(i: int, trial_id=trial.id, barrier=barrier):
            barrier.wait()
            with sessions.begin() as session:
                return lifecycle.claim(session, trial_id, f"w{i}")

        with ThreadPoolExecutor(8) as pool:
            leases = [lease for lease in pool.map(attempt, range(8)) if lease is not None]
        assert len(leases) == 1
        assert leases[0].attempt == 1


LATE: dict[str, Callable] = {
    "renew": lifecycle.renew,
    "record": lambda session, lease: recording.record(session, lease, Batch(steps=(step(1),))),
    "complete": lambda session, lease: lifecycle.finish(session, lease, State.complete),
    "fail": lambda session, lease: lifecycle.finish(session, lease, State.failed, {}),
    "requeue": lambda session, lease: lifecycle.requeue(session, lease, "late", involuntary=True),
}


@pytest.mark.parametrize("late", LATE.values(), ids=LATE.keys())
def test_late_writes_of_a_lost_lease_change_nothing(sessions, new_trial, late):
    trial = new_trial()
    old = claim(sessions, trial.id, "old")
    expire(sessions, trial.id)
    with sessions.begin() as session:
        assert trial.id in lifecycle.reap(session)
    new = claim(sessions, trial.id, "new")

    with sessions() as session:
        before = session.get_one(Trial, trial.id).__dict__.copy()
        with pytest.raises(LeaseLost):
            late(session, old)
        session.commit()
        session.expire_all()
        after = session.get_one(Trial, trial.id)
        assert after.lease_token == new.token
        assert {k: getattr(after, k) for k in before if k[0] != "_"} == {k: v for k, v in before.items() if k[0] != "_"}
        assert session.scalars(select(func.count()).where(Step.trial_id == trial.id)).one() == 0


def test_reaping_takes_back_only_what_is_expired(sessions, new_trial):
    held, lost = new_trial(), new_trial()
    claim(sessions, held.id)
    claim(sessions, lost.id, "host:7")
    expire(sessions, lost.id)
    with sessions.begin() as session:
        sent = lifecycle.reap(session)
    assert lost.id in sent
    assert held.id not in sent
    with sessions() as session:
        assert session.get_one(Trial, held.id).state == State.running
        told = events(session, lost.id, EventType.state)[-1]
        assert (told["state"], told["by"]) == (State.queued, "server")
        assert "host:7" in told["why"]


def test_a_trial_whose_message_was_lost_gets_another_but_not_at_every_look(sessions, new_trial):
    trial = new_trial()
    with sessions.begin() as session:
        assert trial.id not in lifecycle.reap(session)
        long_ago = func.now() - timedelta(hours=1)
        session.execute(update(Trial).where(Trial.id == trial.id).values(sent_at=long_ago))
    with sessions.begin() as session:
        assert trial.id in lifecycle.reap(session)
    with sessions.begin() as session:
        assert trial.id not in lifecycle.reap(session)


@pytest.mark.parametrize(
    ("wish", "state"),
    [(Desired.stop, State.complete), (Desired.cancel, State.cancelled), (Desired.pause, State.paused)],
)
def test_a_wish_outlives_the_worker_that_did_not_grant_it(sessions, new_trial, wish: Desired, state: State):
    trial = new_trial()
    claim(sessions, trial.id)
    with sessions.begin() as session:
        lifecycle.request(session, session.get_one(Trial, trial.id), wish)
    expire(sessions, trial.id)
    with sessions.begin() as session:
        assert trial.id not in lifecycle.reap(session)
        assert session.get_one(Trial, trial.id).state == state


def test_a_pause_that_was_taken_back_in_time_goes_on(sessions, new_trial, sent):
    trial = new_trial()
    lease = claim(sessions, trial.id)
    with sessions.begin() as session:
        row = session.get_one(Trial, trial.id)
        lifecycle.request(session, row, Desired.pause)
        lifecycle.request(session, row, Desired.run)
    with sessions.begin() as session:
        assert lifecycle.finish(session, lease, State.paused) is State.queued
    assert sent == [trial.id]


def test_the_restart_budget_ends_in_a_sentence_with_the_last_reason(sessions, new_trial):
    trial = new_trial()
    for expected in (State.queued, State.queued, State.failed):
        lease = claim(sessions, trial.id)
        with sessions.begin() as session:
            assert lifecycle.requeue(session, lease, "its runner was killed", involuntary=True) is expected
    with sessions() as session:
        error = session.get_one(Trial, trial.id).error
        assert error is not None
        assert error["code"] == "restarts-spent"
        assert "interrupted 3 times" in error["detail"]
        assert "because its runner was killed" in error["detail"]


def test_a_new_checkpoint_refills_the_restart_budget(sessions, new_trial):
    trial = new_trial()
    for attempt in range(1, 6):
        lease = claim(sessions, trial.id)
        with sessions.begin() as session:
            recording.record(session, lease, Batch(checkpoints=(Tensors(attempt, b"c%d" % attempt),)))
        with sessions.begin() as session:
            assert lifecycle.requeue(session, lease, "killed", involuntary=True) is State.queued


def test_a_voluntary_end_costs_nothing(sessions, new_trial):
    trial = new_trial()
    for _ in range(5):
        lease = claim(sessions, trial.id)
        with sessions.begin() as session:
            assert lifecycle.requeue(session, lease, "drained", involuntary=False) is State.queued


def test_a_claim_withdraws_what_lies_past_the_newest_checkpoint(sessions, new_trial):
    trial = new_trial()
    lease = claim(sessions, trial.id)
    batch = Batch(
        steps=(step(1, 0.9), step(2, 0.8), step(3, 0.5)),
        snapshots=(Tensors(0, b"0"), Tensors(1, b"1"), Tensors(3, b"3")),
        checkpoints=(Tensors(2, b"at 2"),),
    )
    with sessions.begin() as session:
        recording.record(session, lease, batch)
    with sessions.begin() as session:
        row = session.get_one(Trial, trial.id)
        assert (row.step, row.value, row.best_step, row.best_value) == (3, 0.5, 3, 0.5)
    with sessions.begin() as session:
        lifecycle.requeue(session, lease, "killed", involuntary=True)
    claim(sessions, trial.id)
    with sessions() as session:
        row = session.get_one(Trial, trial.id)
        assert (row.step, row.value, row.best_step, row.best_value) == (2, 0.8, 2, 0.8)
        assert list(session.scalars(select(Step.number).where(Step.trial_id == trial.id))) == [1, 2]
        assert set(session.scalars(select(Snapshot.step).where(Snapshot.trial_id == trial.id))) == {0, 1}
        assert events(session, trial.id, EventType.rewind) == [{"step": 2}]
        owned = select(func.count()).select_from(Snapshot).join(Blob).where(Snapshot.trial_id == trial.id)
        assert session.scalars(owned).one() == 2


def test_without_a_checkpoint_a_trial_begins_again(sessions, new_trial):
    trial = new_trial()
    lease = claim(sessions, trial.id)
    with sessions.begin() as session:
        recording.record(session, lease, Batch(steps=(step(1), step(2)), snapshots=(Tensors(0, b"0"),)))
        lifecycle.requeue(session, lease, "killed", involuntary=True)
    claim(sessions, trial.id)
    with sessions() as session:
        row = session.get_one(Trial, trial.id)
        assert (row.step, row.value, row.best_step, row.best_value) == (0, None, None, None)
        assert events(session, trial.id, EventType.rewind) == [{"step": 0}]


def test_a_first_claim_rewinds_nothing(sessions, new_trial):
    trial = new_trial()
    claim(sessions, trial.id)
    with sessions() as session:
        assert events(session, trial.id, EventType.rewind) == []
