"""What a user may request in each state of a trial, and when it takes effect, on a real database."""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from uuid import UUID

import pytest
from sqlalchemy import func, update

from nestor import lifecycle
from nestor.errors import IllegalTransition, InvalidInput
from nestor.schemas import Action, Desired, EventType, State
from nestor_server.models import Checkpoint, Study, Trial
from nestor_server.scheduling import leases, recording
from nestor_server.scheduling.leases import LeaseLost
from nestor_server.scheduling.recording import RecordedBatch
from nestor_server.storage import blobs
from tests.worker.trials import claim, events, expire, step

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
    [("stop", State.complete), ("cancel", State.cancelled), ("pause", State.paused)],
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
    [(State.complete, 10, 15), (State.complete, 4, 9), (State.paused, 4, 15)],
    ids=["complete", "stopped early", "paused"],
)
def test_an_extended_trial_is_queued_for_more_steps(session, new_trial, sent, state, reached, n_steps):
    trial = session.merge(new_trial(state, step=reached, desired=Desired.stop))
    extended = leases.extend(session, trial, 5)
    assert (extended.state, extended.n_steps, extended.desired) == (State.queued, n_steps, Desired.run)
    session.commit()
    assert sent == [trial.id]


@pytest.mark.parametrize("state", [State.queued, State.running, State.failed, State.cancelled], ids=str)
def test_only_a_complete_or_a_paused_trial_is_extended(session, new_trial, state: State):
    with pytest.raises(IllegalTransition, match=f"{state.value} cannot extend"):
        leases.extend(session, session.merge(new_trial(state)), 5)


def test_no_trial_is_extended_beyond_the_largest_step_number(session, new_trial):
    with pytest.raises(InvalidInput, match="at most 2,147,483,647"):
        leases.extend(session, session.merge(new_trial(State.complete, step=10)), 2**31 - 1)


@pytest.mark.parametrize(
    ("action", "state"), [("stop", State.complete), ("cancel", State.cancelled), ("pause", State.paused)]
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
