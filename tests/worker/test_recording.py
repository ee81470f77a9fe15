"""What the database contains after a worker's report."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from nestor.schemas import Desired, EventType, HyperparameterInfo
from nestor.schemas import Step as StepRecord
from nestor_server.database import plain_url
from nestor_server.models import Blob, Checkpoint, Event, Program, Result, Snapshot, Step, Study, Trial
from nestor_server.scheduling import event_log, leases, recording
from nestor_server.scheduling.recording import LogRecord, RecordedBatch, TensorFile
from nestor_server.storage import blobs
from tests.worker.trials import claim, step


def owner(session, trial) -> UUID:
    return session.get_one(Study, trial.study_id).owner_id


def all_seqs(session, trial_id) -> list[int]:
    tables = (select(table.seq).where(table.trial_id == trial_id) for table in (Step, Event))
    return sorted(seq for query in tables for seq in session.scalars(query))


def test_a_batch_is_journaled_in_the_order_of_its_events(sessions, new_trial):
    trial = new_trial()
    lease = claim(sessions, trial.id)
    batch = RecordedBatch(
        steps=(step(1), step(2)),
        snapshots=(TensorFile(0, b"0"), TensorFile(2, b"2")),
        logs=(LogRecord(1, "a warning", "warning"),),
        hyperparameters=(HyperparameterInfo(name="l2", shape=(), dtype="float32", transform="exp"),),
    )
    with sessions.begin() as session:
        assert recording.record(session, lease, batch) is Desired.run
    with sessions() as session:
        row = session.get_one(Trial, trial.id)
        assert row.hyperparameters == [info.model_dump(mode="json") for info in batch.hyperparameters or ()]
        assert all_seqs(session, trial.id) == list(range(1, row.seq + 1))
        entries = [(e.seq, e.type, e.data) for e in session.scalars(select(Event).where(Event.trial_id == trial.id))]
        entries += [
            (s.seq, "step", {"step": s.number}) for s in session.scalars(select(Step).where(Step.trial_id == trial.id))
        ]
        ordered = [(type, data["step"]) for _, type, data in sorted(entries, key=lambda e: e[0]) if type != "state"]
        assert ordered == [("snapshot", 0), ("step", 1), ("log", 1), ("step", 2), ("snapshot", 2)]


def test_the_journal_has_no_gap_with_concurrent_writers_and_rollbacks(sessions, new_trial):
    trial = new_trial()

    def write(i: int) -> None:
        with sessions() as session:
            event_log.append(session, trial.id, EventType.log, {"i": i})
            session.rollback() if i % 3 == 0 else session.commit()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(60)))
    with sessions() as session:
        assert all_seqs(session, trial.id) == list(range(1, 41))
        assert session.get_one(Trial, trial.id).seq == 40


def test_taking_several_numbers_returns_the_first(session, new_trial):
    trial = new_trial()
    assert [event_log.reserve(session, trial.id, 3), event_log.reserve(session, trial.id, 2)] == [1, 4]
    assert event_log.append(session, trial.id, "log", {}) == 6


def test_the_response_contains_the_desired_state(sessions, new_trial):
    trial = new_trial()
    lease = claim(sessions, trial.id)
    with sessions.begin() as session:
        leases.request(session, session.get_one(Trial, trial.id), "stop")
    with sessions.begin() as session:
        assert recording.record(session, lease, RecordedBatch(steps=(step(1),))) is Desired.stop
        assert leases.renew(session, lease) is Desired.stop


@pytest.mark.parametrize(("metric", "direction"), [(None, "minimize"), ("f1", "minimize"), ("f1", "maximize")])
def test_the_best_step_is_the_first_of_the_best_by_the_study_s_metric(sessions, new_trial, metric, direction):
    trial, sign = new_trial(), -1 if direction == "maximize" else 1
    rank_by(sessions, trial, metric, direction)
    lease = claim(sessions, trial.id)

    batches = [[(1, None)], [(2, 0.9), (3, 0.4), (4, 0.4), (5, None)], [(6, 0.4), (7, 0.7)], [(8, None)], [(9, 0.1)]]
    expected = [(None, None, None), (3, 0.4, 0.4), (3, 0.4, 0.7), (3, 0.4, 0.7), (9, 0.1, 0.1)]
    for numbers, (best_step, best, last) in zip(batches, expected, strict=True):
        steps = tuple(ranked(metric, number, value and sign * value) for number, value in numbers)
        with sessions.begin() as session:
            recording.record(session, lease, RecordedBatch(steps=steps))
        with sessions() as session:
            row = session.get_one(Trial, trial.id)
            assert (row.best_step, row.best_value) == (best_step, best and sign * best)
            assert (row.step, row.value) == (steps[-1].number, last and sign * last)


@pytest.mark.parametrize(("metric", "direction"), [(None, "minimize"), ("f1", "minimize"), ("f1", "maximize")])
def test_after_a_lost_lease_the_best_step_is_that_of_the_steps_until_the_newest_checkpoint(
    sessions, new_trial, metric, direction
):
    trial, sign = new_trial(), -1 if direction == "maximize" else 1
    rank_by(sessions, trial, metric, direction)
    values = {2: 0.5, 4: 0.3, 6: 0.3, 8: 0.4, 10: 0.1}
    steps = [ranked(metric, number, sign * values[number] if number in values else None) for number in range(1, 11)]
    lease = claim(sessions, trial.id)
    with sessions.begin() as session:
        kept = (TensorFile(9, b"checkpoint"),)
        results = (TensorFile(4, b"4"),)
        recording.record(session, lease, RecordedBatch(steps=tuple(steps[:9]), checkpoints=kept, results=results))
    with sessions.begin() as session:
        recording.record(session, lease, RecordedBatch(steps=tuple(steps[9:]), results=(TensorFile(10, b"10"),)))
        leases.requeue(session, lease, "so")
    with sessions() as session:
        row = session.get_one(Trial, trial.id)
        assert (row.step, row.best_step, row.value, row.best_value) == (10, 10, sign * 0.1, sign * 0.1)
        assert results_of(session, trial) == {4: b"4", 10: b"10"}
    claim(sessions, trial.id)
    with sessions() as session:
        row = session.get_one(Trial, trial.id)
        assert (row.step, row.best_step, row.value, row.best_value) == (9, 4, sign * 0.4, sign * 0.3)
        assert results_of(session, trial) == {4: b"4"}


def test_of_the_results_the_newest_is_kept_and_the_newest_before_the_newest_checkpoint(sessions, new_trial):
    trial = new_trial()
    lease = claim(sessions, trial.id)
    for results, checkpoint, kept in [
        ((2,), 3, {2}), ((4,), None, {2, 4}), ((6,), None, {2, 6}), ((), 7, {6}), ((8,), 9, {8}), ((), 10, {8})
    ]:  # fmt: skip
        batch = RecordedBatch(
            results=tuple(TensorFile(at, b"result %d" % at) for at in results),
            checkpoints=() if checkpoint is None else (TensorFile(checkpoint, b"checkpoint %d" % checkpoint),),
        )
        with sessions.begin() as session:
            recording.record(session, lease, batch)
        with sessions() as session:
            assert results_of(session, trial).keys() == kept
    with sessions() as session:
        assert session.scalars(select(func.count()).where(Blob.owner_id == owner(session, trial))).one() == 3


def ranked(metric: str | None, number: int, value: float | None) -> StepRecord:
    """A step that has this value by the metric; None: it was not evaluated."""
    if metric is None or value is None:
        return step(number, value)
    return step(number, 1.0, **{metric: value})


def rank_by(sessions, trial, metric: str | None, direction: str) -> None:
    with sessions.begin() as session:
        study = session.get_one(Study, trial.study_id)
        study.metric, study.direction = metric, direction


def results_of(session, trial) -> dict[int, bytes]:
    found = session.execute(select(Result.step, Blob).join(Blob).where(Result.trial_id == trial.id)).all()
    return {row.step: blobs.load(session, row.Blob) for row in found}


def test_a_step_is_recorded_once_or_not_at_all(sessions, new_trial):
    trial = new_trial()
    lease = claim(sessions, trial.id)
    with sessions.begin() as session:
        recording.record(session, lease, RecordedBatch(steps=(step(1),)))
    with pytest.raises(IntegrityError), sessions.begin() as session:
        recording.record(session, lease, RecordedBatch(steps=(step(1),), snapshots=(TensorFile(1, b"twice"),)))
    with sessions() as session:
        assert session.scalars(select(func.count()).where(Snapshot.trial_id == trial.id)).one() == 0
        assert all_seqs(session, trial.id) == list(range(1, session.get_one(Trial, trial.id).seq + 1))


def test_the_newest_two_checkpoints_are_kept_and_older_bytes_are_gone(sessions, new_trial):
    trial = new_trial()
    lease = claim(sessions, trial.id)
    for at in range(1, 6):
        with sessions.begin() as session:
            recording.record(session, lease, RecordedBatch(checkpoints=(TensorFile(at, b"checkpoint %d" % at),)))
    with sessions() as session:
        kept = select(Checkpoint.step).where(Checkpoint.trial_id == trial.id)
        assert sorted(session.scalars(kept)) == [4, 5]
        assert session.scalars(select(func.count()).where(Blob.owner_id == owner(session, trial))).one() == 2


def test_bytes_that_something_else_refers_to_stay(sessions, new_trial):
    trial = new_trial()
    lease = claim(sessions, trial.id)
    with sessions.begin() as session:
        blob = blobs.store(session, owner(session, trial), b"shared with a program")
        session.add(Program(owner_id=owner(session, trial), graphs="sha256:0", tensors=blob.digest, torch="2.13"))
    same = TensorFile(2, b"shared with a snapshot")
    shared = (TensorFile(1, b"shared with a program"), same)
    with sessions.begin() as session:
        recording.record(session, lease, RecordedBatch(checkpoints=shared, snapshots=(same,)))
    for at in (3, 4):
        with sessions.begin() as session:
            recording.record(session, lease, RecordedBatch(checkpoints=(TensorFile(at, b"%d" % at),)))
    with sessions() as session:
        assert session.scalars(select(func.count()).where(Blob.owner_id == owner(session, trial))).one() == 4


def test_a_better_snapshot_replaces_the_one_that_it_names(sessions, new_trial):
    trial = new_trial()
    lease = claim(sessions, trial.id)
    for snapshot in (TensorFile(3, b"3"), TensorFile(7, b"7", replaces=(3,)), TensorFile(7, b"7 again")):
        with sessions.begin() as session:
            recording.record(session, lease, RecordedBatch(snapshots=(snapshot,)))
    with sessions() as session:
        found = session.execute(select(Snapshot.step, Blob).join(Blob).where(Snapshot.trial_id == trial.id)).all()
        assert [(row.step, blobs.load(session, row.Blob)) for row in found] == [(7, b"7 again")]


def test_the_commit_notifies_readers(sessions, new_trial):
    trial = new_trial()
    url = plain_url(sessions.kw["bind"].url.render_as_string(hide_password=False))
    with psycopg.connect(url, autocommit=True) as listener:
        listener.execute(f"LISTEN {event_log.CHANNEL}")
        with sessions.begin() as session:
            event_log.append(session, trial.id, "log", {})
        heard = {note.payload for note in listener.notifies(timeout=60, stop_after=1)}
    assert heard == {str(trial.id)}
