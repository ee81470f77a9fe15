"""Every move of a trial, legal and illegal, against a real database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import product
from uuid import UUID

import pytest
from sqlalchemy import delete, func, select, update

from nestor.errors import IllegalTransition, InvalidInput
from nestor.schemas import Action, Desired, EventType, State
from nestor.schemas import Step as StepRecord
from nestor_server.models import Blob, Checkpoint, Event, Snapshot, Step, Study, Trial, Worker
from nestor_server.services import blobs, lifecycle, moves, recording
from nestor_server.services.lifecycle import LeaseLost
from nestor_server.services.recording import Batch, Tensors

ILLEGAL = object()
ASKED = {  # (state, what the user asks for) → the state after it
    (State.queued, "resume"): State.queued,
    (State.queued, "stop"): State.complete,
    (State.queued, "cancel"): State.cancelled,
    (State.queued, "pause"): State.paused,
    (State.running, "resume"): State.running,
    (State.running, "stop"): State.running,
    (State.running, "cancel"): State.running,
    (State.running, "pause"): State.running,
    (State.paused, "resume"): State.queued,
    (State.paused, "stop"): State.complete,
    (State.paused, "cancel"): State.cancelled,
    (State.paused, "pause"): State.paused,
    (State.complete, "stop"): State.complete,
    (State.cancelled, "cancel"): State.cancelled,
    (State.queued, "retry"): State.queued,
    (State.running, "retry"): State.running,
    (State.failed, "retry"): State.queued,
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


def stored(session, trial) -> UUID:
    """Some bytes of the trial's owner."""
    owner = session.get_one(Study, trial.study_id).owner_id
    return blobs.store(session, owner, b"some bytes").id


def expire(sessions, trial_id) -> None:
    with sessions.begin() as session:
        ago = func.now() - timedelta(seconds=1)
        session.execute(update(Trial).where(Trial.id == trial_id).values(lease_expires_at=ago))


def claim(sessions, trial_id, owner="w1"):
    with sessions.begin() as session:
        lease = lifecycle.claim(session, trial_id, owner)
    assert lease is not None
    return lease


@pytest.mark.parametrize(("state", "action"), list(product(State, moves.ACTIONS)), ids=str)
def test_a_wish_is_granted_refused_or_handed_to_the_worker(session, new_trial, state: State, action: Action):
    trial = session.merge(new_trial(state))
    expected = ASKED.get((state, action), ILLEGAL)
    if expected is ILLEGAL:
        with pytest.raises(IllegalTransition, match=f"A trial that is {state.value} cannot"):
            lifecycle.request(session, trial, action)
        return
    after = lifecycle.request(session, trial, action)
    assert after.state == expected
    again = lifecycle.request(session, after, action)
    assert (again.state, again.seq) == (expected, after.seq)
    assert after.desired == moves.ACTIONS[action][0] or state is expected


def test_a_refusal_says_what_is_allowed(session, new_trial):
    trial = session.merge(new_trial(State.paused))
    lifecycle.request(session, trial, "cancel")
    with pytest.raises(IllegalTransition, match="From here it can: nothing"):
        lifecycle.request(session, trial, "resume")
    assert moves.allowed(State.paused) == ["resume", "stop", "cancel", "extend"]
    assert moves.allowed(State.failed) == ["retry"]
    assert moves.allowed(State.complete) == ["extend"]


def test_a_cancellation_cannot_be_taken_back(session, new_trial):
    trial = session.merge(new_trial(State.running))
    lifecycle.request(session, trial, "cancel")
    with pytest.raises(IllegalTransition, match="being cancelled"):
        lifecycle.request(session, trial, "resume")


def test_a_resumed_trial_is_sent_once_it_is_committed(session, new_trial, sent):
    trial = session.merge(new_trial(State.paused))
    lifecycle.request(session, trial, "resume")
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
    "requeue": lambda session, lease: lifecycle.requeue(session, lease, "late", paid_from="restarts"),
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
        session.add(Worker(id="idle", device="cpu", versions={}))
        assert trial.id not in lifecycle.reap(session)
        long_ago = func.now() - timedelta(hours=1)
        session.execute(update(Trial).where(Trial.id == trial.id).values(sent_at=long_ago))
    with sessions.begin() as session:
        assert trial.id in lifecycle.reap(session)
    with sessions.begin() as session:
        assert trial.id not in lifecycle.reap(session)
        session.execute(delete(Worker))


def test_messages_are_sent_again_only_for_slots_that_idle(sessions, new_trial):
    long_ago = func.now() - timedelta(hours=1)
    busy = new_trial(State.running)
    with sessions.begin() as session:
        session.add(Worker(id="gone", device="cpu", versions={}, heartbeat_at=long_ago))
        session.add(Worker(id="busy", device="cpu", versions={}, trial_id=busy.id))
    for _ in range(3):
        new_trial(sent_at=long_ago)
    with sessions.begin() as session:
        assert lifecycle.reap(session) == []
        session.execute(update(Worker).where(Worker.id == "busy").values(trial_id=None))
    with sessions.begin() as session:
        assert len(lifecycle.reap(session)) == 1
        session.execute(delete(Worker))


@pytest.mark.parametrize(
    ("wish", "state"),
    [("stop", State.complete), ("cancel", State.cancelled), ("pause", State.paused)],
)
def test_a_wish_outlives_the_worker_that_did_not_grant_it(sessions, new_trial, wish: Action, state: State):
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
        lifecycle.request(session, row, "pause")
        lifecycle.request(session, row, "resume")
    with sessions.begin() as session:
        assert lifecycle.finish(session, lease, State.paused) is State.queued
    assert sent == [trial.id]


def test_the_restart_budget_ends_in_a_sentence_with_the_last_reason(sessions, new_trial):
    trial = new_trial()
    for expected in (State.queued, State.queued, State.failed):
        lease = claim(sessions, trial.id)
        with sessions.begin() as session:
            assert lifecycle.requeue(session, lease, "its runner was killed", paid_from="restarts") is expected
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
            assert lifecycle.requeue(session, lease, "killed", paid_from="restarts") is State.queued


def test_shutdowns_of_its_workers_have_a_budget_of_their_own(sessions, new_trial):
    trial = new_trial()
    for expected in (State.queued, State.queued, State.queued, State.failed):
        lease = claim(sessions, trial.id)
        with sessions.begin() as session:
            reason = "its worker is shutting down"
            assert lifecycle.requeue(session, lease, reason, paid_from="preemptions") is expected
    with sessions() as session:
        row = session.get_one(Trial, trial.id)
        assert (row.restarts, row.error["code"]) == (0, "preemptions-spent")
        assert "shut down 4 times" in row.error["detail"]


def test_an_end_that_was_wished_for_costs_nothing(sessions, new_trial):
    trial = new_trial()
    for _ in range(5):
        lease = claim(sessions, trial.id)
        with sessions.begin() as session:
            assert lifecycle.requeue(session, lease, "the stop was taken back") is State.queued


def test_a_failed_trial_is_retried_from_its_checkpoint_with_fresh_budgets(sessions, session, new_trial, sent):
    trial = new_trial(restarts=2, preemptions=1)
    lease = claim(sessions, trial.id)
    with sessions.begin() as writing:
        recording.record(writing, lease, Batch(steps=(step(1), step(2))))
        writing.add(Checkpoint(trial_id=trial.id, step=1, blob_id=stored(writing, trial)))
        lifecycle.finish(writing, lease, State.failed, {"code": "diverged"})
    again = lifecycle.request(session, session.get_one(Trial, trial.id), "retry")
    assert (again.state, again.error, again.finished_at, again.restarts, again.preemptions) == (
        "queued",
        None,
        None,
        0,
        0,
    )
    session.commit()
    assert sent == [trial.id]
    claim(sessions, trial.id)
    session.refresh(again)
    assert (again.step, again.attempt) == (1, 2)


@pytest.mark.parametrize(
    ("state", "reached", "n_steps"),
    [(State.complete, 10, 15), (State.complete, 4, 9), (State.paused, 4, 15)],
    ids=["complete", "stopped early", "paused"],
)
def test_an_extended_trial_is_queued_for_more_steps(session, new_trial, sent, state, reached, n_steps):
    trial = session.merge(new_trial(state, step=reached, desired=Desired.stop))
    extended = lifecycle.extend(session, trial, 5)
    assert (extended.state, extended.n_steps, extended.desired) == (State.queued, n_steps, Desired.run)
    session.commit()
    assert sent == [trial.id]


@pytest.mark.parametrize("state", [State.queued, State.running, State.failed, State.cancelled], ids=str)
def test_only_a_complete_or_a_paused_trial_is_extended(session, new_trial, state: State):
    with pytest.raises(IllegalTransition, match=f"{state.value} cannot extend"):
        lifecycle.extend(session, session.merge(new_trial(state)), 5)


def test_no_trial_is_extended_beyond_what_can_be_counted(session, new_trial):
    with pytest.raises(InvalidInput, match="at most 2,147,483,647"):
        lifecycle.extend(session, session.merge(new_trial(State.complete, step=10)), 2**31 - 1)


@pytest.mark.parametrize(
    ("wish", "state"), [("stop", State.complete), ("cancel", State.cancelled), ("pause", State.paused)]
)
def test_what_a_worker_does_not_do_in_time_the_server_does(sessions, new_trial, wish: Action, state: State):
    """Its lease is renewed all the time, as that of a worker whose heart beats and whose head hangs."""
    trial = new_trial()
    lease = claim(sessions, trial.id)
    with sessions.begin() as session:
        lifecycle.request(session, session.get_one(Trial, trial.id), wish)
        lifecycle.reap(session)
        assert lifecycle.renew(session, lease) == wish
        ago = func.now() - timedelta(seconds=1)
        session.execute(update(Trial).where(Trial.id == trial.id).values(answer_by=ago))
    with sessions.begin() as session:
        lifecycle.reap(session)
        told = events(session, trial.id, EventType.state)[-1]
        assert (told["state"], told["by"]) == (state, "server")
        assert told["why"] == f"{wish} was asked for; its worker (w1) did not do so in time"
        with pytest.raises(LeaseLost):
            lifecycle.renew(session, lease)


def test_a_pause_that_is_taken_back_has_no_deadline(session, new_trial):
    trial = session.merge(new_trial(State.running))
    assert lifecycle.request(session, trial, "pause").answer_by is not None
    assert lifecycle.request(session, trial, "resume").answer_by is None


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
        lifecycle.requeue(session, lease, "killed", paid_from="restarts")
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
        lifecycle.requeue(session, lease, "killed", paid_from="restarts")
    claim(sessions, trial.id)
    with sessions() as session:
        row = session.get_one(Trial, trial.id)
        assert (row.step, row.value, row.best_step, row.best_value) == (0, None, None, None)
        assert events(session, trial.id, EventType.rewind) == [{"step": 0}]


def test_a_trial_is_judged_by_held_out_examples_where_there_are_some_also_after_a_rewind(sessions, new_trial):
    trial = new_trial()
    lease = claim(sessions, trial.id)
    judged = lambda number, val_loss, held_out: step(number, val_loss).model_copy(update={"held_out_loss": held_out})
    steps = (judged(1, 0.5, 0.7), judged(2, 0.4, 0.8), judged(3, 0.3, 0.6))
    with sessions.begin() as session:
        recording.record(session, lease, Batch(steps=steps, checkpoints=(Tensors(2, b"at 2"),)))
    with sessions.begin() as session:
        row = session.get_one(Trial, trial.id)
        assert (row.value, row.best_step, row.best_value) == (0.6, 3, 0.6)
        lifecycle.requeue(session, lease, "killed", paid_from="restarts")
    claim(sessions, trial.id)
    with sessions() as session:
        row = session.get_one(Trial, trial.id)
        assert (row.value, row.best_step, row.best_value) == (0.8, 1, 0.7)


def test_a_first_claim_rewinds_nothing(sessions, new_trial):
    trial = new_trial()
    claim(sessions, trial.id)
    with sessions() as session:
        assert events(session, trial.id, EventType.rewind) == []
