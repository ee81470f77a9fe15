"""What a user may request in each state of a trial, and when it takes effect, on a real database."""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from nestor import lifecycle
from nestor.errors import IllegalTransition, InvalidInput
from nestor.schemas import Action, Desired, EventType, State
from nestor_server.models import Checkpoint, Step, Study, Trial
from nestor_server.scheduling import leases, recording
from nestor_server.scheduling.leases import LeaseLost
from nestor_server.scheduling.recording import RecordedBatch, TensorFile
from nestor_server.storage import blobs
from tests.worker.trials import claim, events, expire, step

ILLEGAL = object()
ASKED = {  # (state, what the user asks for) → the state after it
    (State.queued, "resume"): State.queued,
    (State.queued, "stop"): State.complete,
    (State.queued, "cancel"): State.cancelled,
    (State.queued, "pause"): State.paused,
    (State.queued, "prune"): State.pruned,
    (State.running, "prune"): State.running,
    (State.paused, "prune"): State.pruned,
    (State.pruned, "prune"): State.pruned,
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


@pytest.mark.parametrize(("state", "action"), list(product(State, sorted({action for _, action in ASKED}))), ids=str)
def test_a_request_is_carried_out_refused_or_passed_to_the_worker(session, new_trial, state: State, action: Action):
    trial = session.merge(new_trial(state))
    expected = ASKED.get((state, action), ILLEGAL)
    if expected is ILLEGAL:
        with pytest.raises(IllegalTransition, match=f"A trial that is {state.value} cannot"):
            leases.request(session, trial, action)
        return
    after = leases.request(session, trial, action)
    assert after.state == expected
    again = leases.request(session, after, action)
    assert (again.state, again.seq) == (expected, after.seq)
    assert after.desired == lifecycle.MEANINGS[action].desired or state is expected


def test_a_refusal_says_what_is_allowed(session, new_trial):
    trial = session.merge(new_trial(State.paused))
    leases.request(session, trial, "cancel")
    with pytest.raises(IllegalTransition, match="From here it can: nothing"):
        leases.request(session, trial, "resume")


def test_a_cancellation_cannot_be_withdrawn(session, new_trial):
    trial = session.merge(new_trial(State.running))
    leases.request(session, trial, "cancel")
    with pytest.raises(IllegalTransition, match="being cancelled"):
        leases.request(session, trial, "resume")


def test_a_resumed_trial_is_sent_once_it_is_committed(session, new_trial, sent):
    trial = session.merge(new_trial(State.paused))
    leases.request(session, trial, "resume")
    assert sent == []
    session.commit()
    assert sent == [trial.id]


@pytest.mark.parametrize(
    ("action", "state"),
    [("stop", State.complete), ("prune", State.pruned), ("cancel", State.cancelled), ("pause", State.paused)],
)
def test_a_request_survives_the_worker_that_did_not_carry_it_out(sessions, new_trial, action: Action, state: State):
    trial = new_trial()
    claim(sessions, trial.id)
    with sessions.begin() as session:
        leases.request(session, session.get_one(Trial, trial.id), action)
    expire(sessions, trial.id)
    with sessions.begin() as session:
        assert trial.id not in leases.sweep_expired(session)
        assert session.get_one(Trial, trial.id).state == state


def test_a_trial_continues_if_its_pause_was_withdrawn_in_time(sessions, new_trial, sent):
    trial = new_trial()
    lease = claim(sessions, trial.id)
    with sessions.begin() as session:
        row = session.get_one(Trial, trial.id)
        leases.request(session, row, "pause")
        leases.request(session, row, "resume")
    with sessions.begin() as session:
        assert leases.finish(session, lease, State.paused) is State.queued
    assert sent == [trial.id]


def stored(session, trial) -> UUID:
    """Some bytes of the trial's owner."""
    owner = session.get_one(Study, trial.study_id).owner_id
    return blobs.store(session, owner, b"some bytes").id


def test_a_failed_trial_is_retried_from_its_checkpoint_with_fresh_budgets(sessions, session, new_trial, sent):
    trial = new_trial(restarts=2, preemptions=1)
    lease = claim(sessions, trial.id)
    with sessions.begin() as writing:
        recording.record(writing, lease, RecordedBatch(steps=(step(1), step(2))))
        writing.add(Checkpoint(trial_id=trial.id, step=1, blob_id=stored(writing, trial)))
        leases.finish(writing, lease, State.failed, {"code": "diverged"})
    again = leases.request(session, session.get_one(Trial, trial.id), "retry")
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
    [(State.complete, 10, 15), (State.complete, 4, 9), (State.pruned, 4, 9), (State.paused, 4, 15)],
    ids=["complete", "stopped early", "pruned", "paused"],
)
def test_an_extended_trial_is_queued_for_more_steps(session, new_trial, sent, state, reached, n_steps):
    trial = session.merge(new_trial(state, step=reached, desired=Desired.stop))
    extended = leases.extend(session, trial, 5)
    assert (extended.state, extended.n_steps, extended.desired) == (State.queued, n_steps, Desired.run)
    session.commit()
    assert sent == [trial.id]


@pytest.mark.parametrize("state", [State.queued, State.running, State.failed, State.cancelled], ids=str)
def test_only_a_complete_a_pruned_or_a_paused_trial_is_extended(session, new_trial, state: State):
    with pytest.raises(IllegalTransition, match=f"{state.value} cannot extend"):
        leases.extend(session, session.merge(new_trial(state)), 5)


def test_no_trial_is_extended_beyond_the_largest_step_number(session, new_trial):
    with pytest.raises(InvalidInput, match="at most 2,147,483,647"):
        leases.extend(session, session.merge(new_trial(State.complete, step=10)), 2**31 - 1)


@pytest.mark.parametrize(
    ("action", "state"),
    [("stop", State.complete), ("prune", State.pruned), ("cancel", State.cancelled), ("pause", State.paused)],
)
def test_the_server_carries_out_a_request_that_the_worker_misses(sessions, new_trial, action: Action, state: State):
    """Its lease is renewed all the time, like that of a worker with a heartbeat whose runner hangs."""
    trial = new_trial()
    lease = claim(sessions, trial.id)
    with sessions.begin() as session:
        leases.request(session, session.get_one(Trial, trial.id), action)
        leases.sweep_expired(session)
        assert leases.renew(session, lease) == action
        ago = func.now() - timedelta(seconds=1)
        session.execute(update(Trial).where(Trial.id == trial.id).values(answer_by=ago))
    with sessions.begin() as session:
        leases.sweep_expired(session)
        event = events(session, trial.id, EventType.state)[-1]
        assert (event["state"], event["by"]) == (state, "server")
        assert event["why"] == f"{action} was asked for; its worker (w1) did not do so in time"
        with pytest.raises(LeaseLost):
            leases.renew(session, lease)


def test_a_withdrawn_pause_has_no_deadline(session, new_trial):
    trial = session.merge(new_trial(State.running))
    assert leases.request(session, trial, "pause").answer_by is not None
    assert leases.request(session, trial, "resume").answer_by is None


# --- an end after a step ---------------------------------------------------------------------------


def record_steps(sessions, lease, first: int, last: int, *checkpoints: int) -> None:
    """Steps of which each is better than the one before, with their snapshots."""
    numbers = range(first, last + 1)
    batch = RecordedBatch(
        steps=tuple(step(n, 1 / n) for n in numbers),
        snapshots=tuple(TensorFile(n, b"snapshot %d" % n) for n in numbers),
        checkpoints=tuple(TensorFile(n, b"checkpoint %d" % n) for n in checkpoints),
    )
    with sessions.begin() as session:
        recording.record(session, lease, batch)


def stands(sessions, trial_id) -> tuple:
    with sessions() as session:
        row = session.get_one(Trial, trial_id)
        numbers = session.scalars(select(Step.number).where(Step.trial_id == trial_id).order_by(Step.number)).all()
        assert list(numbers) == list(range(1, row.step + 1))
        assert (row.best_step or 0) == row.step
        kept = session.scalars(select(Checkpoint.step).where(Checkpoint.trial_id == trial_id)).all()
        return row.state, row.step, row.ends_after, max(kept, default=0)


def ask_for_an_end(sessions, trial_id, action, after: int) -> None:
    with sessions.begin() as session:
        leases.request_end(session, session.get_one(Trial, trial_id), action, after, by="u")


ENDS = pytest.mark.parametrize(("action", "state"), [("stop", State.complete), ("prune", State.pruned)])


@ENDS
@pytest.mark.parametrize("ended", [State.complete, State.failed, None], ids=["complete", "failed", "running"])
def test_a_trial_that_has_gone_on_returns_to_the_step_after_which_it_is_to_end(
    sessions, new_trial, sent, action, state, ended
):
    trial = new_trial(n_steps=9)
    lease = claim(sessions, trial.id)
    record_steps(sessions, lease, 1, 9, 2, 6)
    if ended is not None:
        with sessions.begin() as session:
            leases.finish(session, lease, ended, {"code": "x"} if ended is State.failed else None)
        ask_for_an_end(sessions, trial.id, action, 4)
    else:
        ask_for_an_end(sessions, trial.id, action, 4)
        ask_for_an_end(sessions, trial.id, action, 4)
        with sessions.begin() as session:
            assert leases.renew(session, lease) == action
            target = lifecycle.OBEDIENCE[Desired(action)].transition.target
            assert leases.finish(session, lease, target) is State.queued
    assert stands(sessions, trial.id) == (State.queued, 4, 4, 2)
    assert trial.id in sent
    lease = claim(sessions, trial.id)
    with sessions.begin() as session:
        assert leases.renew(session, lease) is Desired.run
        assert [event["step"] for event in events(session, trial.id, EventType.rewind)] == [4, 2]
    record_steps(sessions, lease, 3, 4, 4)
    with sessions.begin() as session:
        assert leases.finish(session, lease, State.complete) is state
    assert stands(sessions, trial.id) == (state, 4, None, 4)
    with sessions.begin() as session:
        last = events(session, trial.id, EventType.state)[-1]
        assert last["why"] == lifecycle.OBEDIENCE[Desired(action)].why


@ENDS
def test_a_request_for_an_end_survives_a_worker_that_is_lost(sessions, new_trial, action, state):
    trial = new_trial(n_steps=9)
    lease = claim(sessions, trial.id)
    record_steps(sessions, lease, 1, 6, 2)
    ask_for_an_end(sessions, trial.id, action, 4)
    expire(sessions, trial.id)
    with sessions.begin() as session:
        assert trial.id in leases.sweep_expired(session)
    lease = claim(sessions, trial.id)
    record_steps(sessions, lease, 3, 3, 3)
    with sessions.begin() as session:  # it is lost again, now before it comes to that step
        leases.requeue(session, lease, "so", paid_from="restarts")
    lease = claim(sessions, trial.id)
    record_steps(sessions, lease, 4, 4, 4)
    with sessions.begin() as session:
        assert leases.finish(session, lease, State.complete) is state
    assert stands(sessions, trial.id) == (state, 4, None, 4)


@ENDS
def test_a_trial_that_stands_at_the_step_ends_at_once(sessions, new_trial, action, state):
    trial = new_trial(n_steps=9)
    lease = claim(sessions, trial.id)
    record_steps(sessions, lease, 1, 4, 4)
    ask_for_an_end(sessions, trial.id, action, 4)
    with sessions.begin() as session:
        assert leases.finish(session, lease, lifecycle.OBEDIENCE[Desired(action)].transition.target) is state
    assert stands(sessions, trial.id) == (state, 4, None, 4)
    ask_for_an_end(sessions, trial.id, action, 4)
    assert stands(sessions, trial.id) == (state, 4, None, 4)


def test_a_complete_trial_is_pruned_by_the_callback_that_saw_its_last_step(sessions, new_trial):
    trial = new_trial(n_steps=4)
    lease = claim(sessions, trial.id)
    record_steps(sessions, lease, 1, 4, 4)
    with sessions.begin() as session:
        leases.finish(session, lease, State.complete)
    ask_for_an_end(sessions, trial.id, "prune", 4)
    assert stands(sessions, trial.id) == (State.pruned, 4, None, 4)


def test_an_end_that_comes_too_late_withdraws_nothing(sessions, new_trial):
    trial = new_trial(n_steps=9)
    lease = claim(sessions, trial.id)
    record_steps(sessions, lease, 1, 9, 6, 9)
    with sessions.begin() as session:
        session.execute(update(Trial).where(Trial.id == trial.id).values(started_at=func.now() - timedelta(hours=1)))
    ask_for_an_end(sessions, trial.id, "stop", 4)
    with sessions.begin() as session:
        assert leases.finish(session, lease, State.complete) is State.complete
        assert "too late to return to step 4" in events(session, trial.id, EventType.state)[-1]["why"]
    assert stands(sessions, trial.id) == (State.complete, 9, None, 9)


def test_a_best_step_whose_snapshot_was_replaced_is_taken_again(sessions, new_trial):
    trial = new_trial(n_steps=9)
    lease = claim(sessions, trial.id)
    with sessions.begin() as session:
        steps = tuple(step(n, 1.0 if n in (2, 8) else 2.0) for n in range(1, 9))
        kept = tuple(TensorFile(n, b"c %d" % n) for n in (3, 6))
        recording.record(session, lease, RecordedBatch(steps=steps, checkpoints=kept))  # without the snapshot of step 2
    ask_for_an_end(sessions, trial.id, "stop", 7)
    with sessions.begin() as session:
        assert leases.finish(session, lease, State.complete) is State.queued
        assert session.scalars(select(Checkpoint.step).where(Checkpoint.trial_id == trial.id)).all() == []


def test_a_withdrawn_stop_withdraws_its_step(sessions, new_trial):
    trial = new_trial(n_steps=9)
    lease = claim(sessions, trial.id)
    record_steps(sessions, lease, 1, 6, 6)
    ask_for_an_end(sessions, trial.id, "stop", 4)
    with sessions.begin() as session:
        leases.request(session, session.get_one(Trial, trial.id), "resume")
    record_steps(sessions, lease, 7, 9, 9)
    with sessions.begin() as session:
        assert leases.finish(session, lease, State.complete) is State.complete
    assert stands(sessions, trial.id) == (State.complete, 9, None, 9)
