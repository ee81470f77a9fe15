"""One worker has a trial at a time, and the end of an attempt is counted and recorded, on a real database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from nestor.schemas import Desired, EventType, State
from nestor_server.database import make_engine, worker_limits
from nestor_server.models import Blob, Snapshot, Step, Trial, Worker
from nestor_server.scheduling import leases, recording
from nestor_server.scheduling.leases import LeaseLost
from nestor_server.scheduling.recording import RecordedBatch, TensorFile
from tests.worker.trials import claim, events, expire, step


@pytest.mark.parametrize("state", State, ids=str)
def test_only_a_queued_trial_can_be_claimed(session, new_trial, state: State):
    lease = leases.claim(session, new_trial(state).id, "w1")
    assert (lease is not None) == (state is State.queued)


@pytest.mark.parametrize("end", [State.complete, State.failed, State.cancelled, State.paused], ids=str)
def test_the_lease_ends_with_the_attempt(sessions, session, new_trial, end: State):
    trial = new_trial(desired=Desired.pause if end is State.paused else Desired.run)
    lease = claim(sessions, trial.id)
    assert leases.finish(session, lease, end, {"code": "x"} if end is State.failed else None, why="so") is end
    row = session.get_one(Trial, trial.id)
    assert (row.state, row.lease_owner, row.lease_expires_at) == (end, None, None)
    assert (row.finished_at is not None) == end.finished
    event = events(session, trial.id, EventType.state)[-1]
    assert (event["state"], event["by"], event["why"], event["attempt"]) == (end, "w1", "so", 1)
    with pytest.raises(LeaseLost):
        leases.renew(session, lease)


def crash(session: Session, trial: Trial, kind: str | None) -> State:
    lease = leases.claim(session, trial.id, "w1")
    assert lease is not None
    return leases.requeue(session, lease, "its runner crashed", paid_from="restarts", crash=kind)


@pytest.mark.parametrize("between", ["nothing", "a step", "another end", "a retry"])
def test_a_crash_is_the_same_if_nothing_happened_in_between(session, new_trial, between):
    trial = new_trial()
    assert crash(session, trial, "SIGSEGV") is State.queued
    if between == "a step":
        session.execute(update(Trial).where(Trial.id == trial.id).values(step=Trial.step + 1))
    if between == "another end":
        assert crash(session, trial, None) is State.queued
    if between == "a retry":
        session.execute(update(Trial).where(Trial.id == trial.id).values(state=State.failed.value))
        leases.request(session, session.get_one(Trial, trial.id), "retry")
    crash(session, trial, "SIGSEGV")
    error = session.get_one(Trial, trial.id).error
    assert (error is not None and error["code"] == "trial-crashed") == (between == "nothing")


def test_of_many_claims_exactly_one_wins(sessions, new_trial):
    for _ in range(5):
        trial, barrier = new_trial(), threading.Barrier(8)

        def attempt(i: int, trial_id=trial.id, barrier=barrier):
            barrier.wait()
            with sessions.begin() as session:
                return leases.claim(session, trial_id, f"w{i}")

        with ThreadPoolExecutor(8) as pool:
            won = [lease for lease in pool.map(attempt, range(8)) if lease is not None]
        assert len(won) == 1
        assert won[0].attempt == 1


LATE: dict[str, Callable] = {
    "renew": leases.renew,
    "record": lambda session, lease: recording.record(session, lease, RecordedBatch(steps=(step(1),))),
    "complete": lambda session, lease: leases.finish(session, lease, State.complete),
    "fail": lambda session, lease: leases.finish(session, lease, State.failed, {}),
    "requeue": lambda session, lease: leases.requeue(session, lease, "late", paid_from="restarts"),
}


@pytest.mark.parametrize("late", LATE.values(), ids=LATE.keys())
def test_late_writes_of_a_lost_lease_change_nothing(sessions, new_trial, late):
    trial = new_trial()
    old = claim(sessions, trial.id, "old")
    expire(sessions, trial.id)
    with sessions.begin() as session:
        assert trial.id in leases.sweep_expired(session)
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
        sent = leases.sweep_expired(session)
    assert lost.id in sent
    assert held.id not in sent
    with sessions() as session:
        assert session.get_one(Trial, held.id).state == State.running
        event = events(session, lost.id, EventType.state)[-1]
        assert (event["state"], event["by"]) == (State.queued, "server")
        assert "host:7" in event["why"]


def test_a_trial_whose_message_was_lost_gets_another_but_not_at_every_sweep(sessions, new_trial):
    trial = new_trial()
    with sessions.begin() as session:
        session.add(Worker(id="idle", device="cpu", versions={}))
        assert trial.id not in leases.sweep_expired(session)
        long_ago = func.now() - timedelta(hours=1)
        session.execute(update(Trial).where(Trial.id == trial.id).values(sent_at=long_ago))
    with sessions.begin() as session:
        assert trial.id in leases.sweep_expired(session)
    with sessions.begin() as session:
        assert trial.id not in leases.sweep_expired(session)
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
        assert leases.sweep_expired(session) == []
        session.execute(update(Worker).where(Worker.id == "busy").values(trial_id=None))
    with sessions.begin() as session:
        assert len(leases.sweep_expired(session)) == 1
        session.execute(delete(Worker))


def test_a_trial_without_restart_budget_fails_with_the_last_reason(sessions, new_trial):
    trial = new_trial()
    for expected in (State.queued, State.queued, State.failed):
        lease = claim(sessions, trial.id)
        with sessions.begin() as session:
            assert leases.requeue(session, lease, "its runner was killed", paid_from="restarts") is expected
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
            recording.record(session, lease, RecordedBatch(checkpoints=(TensorFile(attempt, b"c%d" % attempt),)))
        with sessions.begin() as session:
            assert leases.requeue(session, lease, "killed", paid_from="restarts") is State.queued


def test_shutdowns_of_its_workers_have_a_budget_of_their_own(sessions, new_trial):
    trial = new_trial()
    for expected in (State.queued, State.queued, State.queued, State.failed):
        lease = claim(sessions, trial.id)
        with sessions.begin() as session:
            reason = "its worker is shutting down"
            assert leases.requeue(session, lease, reason, paid_from="preemptions") is expected
    with sessions() as session:
        row = session.get_one(Trial, trial.id)
        assert (row.restarts, row.error["code"]) == (0, "preemptions-spent")
        assert "shut down 4 times" in row.error["detail"]


def test_a_requested_end_uses_no_budget(sessions, new_trial):
    trial = new_trial()
    for _ in range(5):
        lease = claim(sessions, trial.id)
        with sessions.begin() as session:
            assert leases.requeue(session, lease, "the stop was taken back") is State.queued


def test_a_claim_rolls_back_steps_after_the_newest_checkpoint(sessions, new_trial):
    trial = new_trial()
    lease = claim(sessions, trial.id)
    batch = RecordedBatch(
        steps=(step(1, 0.9), step(2, 0.8), step(3, 0.5)),
        snapshots=(TensorFile(0, b"0"), TensorFile(1, b"1"), TensorFile(3, b"3")),
        checkpoints=(TensorFile(2, b"at 2"),),
    )
    with sessions.begin() as session:
        recording.record(session, lease, batch)
    with sessions.begin() as session:
        row = session.get_one(Trial, trial.id)
        assert (row.step, row.value, row.best_step, row.best_value) == (3, 0.5, 3, 0.5)
    with sessions.begin() as session:
        leases.requeue(session, lease, "killed", paid_from="restarts")
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
        recording.record(session, lease, RecordedBatch(steps=(step(1), step(2)), snapshots=(TensorFile(0, b"0"),)))
        leases.requeue(session, lease, "killed", paid_from="restarts")
    claim(sessions, trial.id)
    with sessions() as session:
        row = session.get_one(Trial, trial.id)
        assert (row.step, row.value, row.best_step, row.best_value) == (0, None, None, None)
        assert events(session, trial.id, EventType.rewind) == [{"step": 0}]


def test_a_trial_is_evaluated_on_held_out_examples_also_after_a_rollback(sessions, new_trial):
    trial = new_trial()
    lease = claim(sessions, trial.id)
    judged = lambda number, held_out: step(number, held_out).model_copy(update={"held_out_loss": held_out})
    steps = (judged(1, 0.7), judged(2, 0.8), judged(3, 0.6))
    with sessions.begin() as session:
        recording.record(session, lease, RecordedBatch(steps=steps, checkpoints=(TensorFile(2, b"at 2"),)))
    with sessions.begin() as session:
        row = session.get_one(Trial, trial.id)
        assert (row.value, row.best_step, row.best_value) == (0.6, 3, 0.6)
        leases.requeue(session, lease, "killed", paid_from="restarts")
    claim(sessions, trial.id)
    with sessions() as session:
        row = session.get_one(Trial, trial.id)
        assert (row.value, row.best_step, row.best_value) == (0.8, 1, 0.7)


def test_a_first_claim_rolls_back_nothing(sessions, new_trial):
    trial = new_trial()
    claim(sessions, trial.id)
    with sessions() as session:
        assert events(session, trial.id, EventType.rewind) == []


def test_a_worker_that_freezes_in_a_transaction_loses_its_lease_all_the_same(sessions, worker_settings, new_trial):
    """The locks of its transaction end with it. Otherwise the reaper would pass over the trial for as long."""
    trial = new_trial()
    lease = claim(sessions, trial.id)
    impatient = worker_settings.model_copy(update={"lease_seconds": 0.1})
    frozen = make_engine(impatient, limits=worker_limits(impatient))
    with Session(frozen) as session:
        assert session.scalars(select(Trial.id).where(lease.holds).with_for_update()).one() == trial.id
        with sessions.begin() as other:  # waits for the lock
            other.execute(update(Trial).where(Trial.id == trial.id).values(lease_expires_at=func.now()))
        with pytest.raises(OperationalError, match="idle-in-transaction") as ended:
            session.execute(select(Trial.id))
        assert ended.value.connection_invalidated
        session.invalidate()
    frozen.dispose()
