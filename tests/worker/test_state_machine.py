"""Any sequence of actions of users, workers and the server on a trial, compared with a small model."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import func, select, update

from nestor import lifecycle
from nestor.errors import IllegalTransition
from nestor.lifecycle import MEANINGS, OBEDIENCE, TRANSITIONS
from nestor.schemas import Desired, State
from nestor_server.models import Checkpoint, Event, Step, Trial
from nestor_server.scheduling import leases, recording
from nestor_server.scheduling.leases import Lease, LeaseLost
from nestor_server.scheduling.recording import RecordedBatch, TensorFile
from tests.worker.trials import step

ASKED = set(MEANINGS) - {"extend"}
GRANTED = {Desired.stop: State.complete, Desired.cancel: State.cancelled, Desired.pause: State.paused}


class Life(RuleBasedStateMachine):
    desired: Desired

    def __init__(self, sessions, ours, new_trial) -> None:
        super().__init__()
        self.sessions, self.settings = sessions, ours
        self.new_trial = new_trial
        self.submit()

    seen: ClassVar[set[tuple[State, State]]] = set()  # the changes that any of these lives went through

    running = precondition(lambda self: self.state is State.running)

    # --- the user ---------------------------------------------------------------------------------

    @precondition(lambda self: self.state is State.cancelled)  # from which nothing leads on
    @rule()
    def submit(self) -> None:
        self.id = self.new_trial(n_steps=100).id
        self.state, self.desired, self.n_steps = State.queued, Desired.run, 100
        self.step = self.checkpoint = self.attempt = self.restarts = self.preemptions = 0
        self.n_entries = 0  # entries of the journal until now, with those that were withdrawn
        self.lease: Lease | None = None
        self.lost: list[Lease] = []
        self.sent: list[RecordedBatch] = []  # under this lease

    @rule(data=st.data())
    def ask_for_what_is_allowed(self, data) -> None:
        if allowed := lifecycle.allowed_actions(self.state, self.desired):
            action = data.draw(st.sampled_from(allowed))
            self.extend(5) if action == "extend" else self.ask(action)

    @rule(action=st.sampled_from(sorted(ASKED)))
    def ask(self, action) -> None:
        desired, transition = MEANINGS[action].desired, MEANINGS[action].transition
        assert desired is not None
        taken_back = self.state is State.running and self.desired is Desired.cancel and action != "cancel"
        legal = self.state in (State.running, transition.target, *transition.sources) and not taken_back
        with self.sessions.begin() as session:
            trial = session.get_one(Trial, self.id)
            if not legal:
                with pytest.raises(IllegalTransition):
                    leases.request(session, trial, action)
                return
            leases.request(session, trial, action)
        if self.state is State.running:
            if action != "retry" and self.desired is not desired:  # it runs again already
                self.n_entries += 1
                self.desired = desired
        elif self.state in transition.sources:
            self.n_entries += 1
            self.state, self.desired = transition.target, desired
            if action == "retry":
                self.restarts = self.preemptions = 0

    @rule(steps=st.integers(1, 5))
    def extend(self, steps) -> None:
        with self.sessions.begin() as session:
            trial = session.get_one(Trial, self.id)
            if self.state not in (State.complete, State.paused):
                with pytest.raises(IllegalTransition):
                    leases.extend(session, trial, steps)
                return
            leases.extend(session, trial, steps)
        self.n_entries += 1
        self.n_steps = steps + (self.step if self.state is State.complete else self.n_steps)
        self.state, self.desired, self.restarts, self.preemptions = State.queued, Desired.run, 0, 0

    # --- workers ----------------------------------------------------------------------------------

    @rule()
    def claim(self) -> None:
        with self.sessions.begin() as session:
            lease = leases.claim(session, self.id, "worker")
        assert (lease is not None) == (self.state is State.queued)
        if lease is not None:
            self.n_entries += 1 + (self.step > self.checkpoint)  # with a rewind
            self.state, self.lease, self.attempt, self.step = State.running, lease, self.attempt + 1, self.checkpoint
            self.sent = []

    @running
    @rule(n=st.integers(1, 3), checkpoint=st.booleans())
    def record(self, n, checkpoint) -> None:
        steps = tuple(step(self.step + 1 + i) for i in range(n))
        kept = (TensorFile(self.step + n, b"at %d" % (self.step + n)),) if checkpoint else ()
        self.sent.append(RecordedBatch(steps=steps, checkpoints=kept, number=len(self.sent) + 1))
        self._write(self.sent[-1])
        self.step, self.n_entries = self.step + n, self.n_entries + n
        if checkpoint:
            self.checkpoint, self.restarts, self.preemptions = self.step, 0, 0

    @running
    @precondition(lambda self: self.sent)
    @rule()
    def record_again_what_was_not_heard_to_be_recorded(self) -> None:
        self._write(self.sent[-1])

    def _write(self, batch: RecordedBatch) -> None:
        assert self.lease is not None
        with self.sessions.begin() as session:
            assert recording.record(session, self.lease, batch) is self.desired

    @running
    @rule(state=st.sampled_from([State.complete, State.failed, State.cancelled, State.paused]))
    def finish(self, state) -> None:
        assert self.lease is not None
        with self.sessions.begin() as session:
            reached = leases.finish(session, self.lease, state, {"code": "x"} if state is State.failed else None)
        if state is State.paused and self.desired is not Desired.pause:
            state = GRANTED.get(self.desired, State.queued)
        assert reached is state
        self._end(state)

    @running
    @rule(action=st.sampled_from(["pause", "pause", "stop", "cancel"]))
    def ask_and_be_obeyed(self, action) -> None:
        self.ask(action)
        self.finish(GRANTED[self.desired])

    @running
    @rule(paid_from=st.sampled_from([None, "restarts", "preemptions"]))
    def give_back(self, paid_from) -> None:
        assert self.lease is not None
        with self.sessions.begin() as session:
            reached = leases.requeue(session, self.lease, "so", paid_from=paid_from)
        assert reached is self._given_up(paid_from)

    @precondition(lambda self: self.lost)
    @rule(data=st.data())
    def write_late(self, data) -> None:
        lease = data.draw(st.sampled_from(self.lost))
        for late in (
            leases.renew,
            lambda session, lease: recording.record(session, lease, RecordedBatch(steps=(step(1),))),
            lambda session, lease: leases.finish(session, lease, State.complete),
            lambda session, lease: leases.requeue(session, lease, "late"),
        ):
            with self.sessions.begin() as session, pytest.raises(LeaseLost):
                late(session, lease)

    # --- the server -------------------------------------------------------------------------------

    @rule(overdue=st.sampled_from([None, "lease_expires_at", "answer_by"]))
    def reap(self, overdue) -> None:
        due = self.state is State.running and (
            overdue == "lease_expires_at" or (overdue == "answer_by" and self.desired is not Desired.run)
        )
        with self.sessions.begin() as session:
            if due:
                ago = func.now() - timedelta(seconds=1)
                session.execute(update(Trial).where(Trial.id == self.id).values({overdue: ago}))
            assert (self.id in leases.sweep_expired(session)) == (due and self._given_up("restarts") is State.queued)

    def _given_up(self, paid_from) -> State:
        if self.desired in OBEDIENCE:
            return self._end(GRANTED[self.desired])
        if paid_from is not None:
            spent = getattr(self, paid_from) + 1
            setattr(self, paid_from, spent)
            if spent > getattr(self.settings, f"max_{paid_from}"):
                return self._end(State.failed)
        return self._end(State.queued)

    def _end(self, state: State) -> State:
        assert self.lease is not None
        self.lost.append(self.lease)
        self.n_entries += 1
        self.state, self.lease = state, None
        return state

    # --- what always holds ------------------------------------------------------------------------

    @invariant()
    def the_row_says_what_the_model_says(self) -> None:
        with self.sessions() as session:
            row = session.get_one(Trial, self.id)
            assert (row.state, row.step, row.n_steps) == (self.state, self.step, self.n_steps)
            assert (row.attempt, row.restarts, row.preemptions) == (self.attempt, self.restarts, self.preemptions)
            assert (row.lease_owner is not None) == (row.lease_expires_at is not None) == (self.state is State.running)
            assert (row.finished_at is not None) == self.state.finished
            assert (row.error is not None) == (self.state is State.failed)
            assert (row.answer_by is not None) == (self.state is State.running and self.desired is not Desired.run)
            if self.state is State.running:
                assert row.desired == self.desired

    @invariant()
    def each_step_is_there_once_and_the_newest_checkpoints_are_kept(self) -> None:
        with self.sessions() as session:
            numbers = session.scalars(select(Step.number).where(Step.trial_id == self.id).order_by(Step.number))
            assert list(numbers) == list(range(1, self.step + 1))
            kept = session.scalars(select(Checkpoint.step).where(Checkpoint.trial_id == self.id)).all()
            assert max(kept, default=0) == self.checkpoint
            assert len(kept) <= recording.CHECKPOINTS_KEPT

    @invariant()
    def the_journal_counts_without_a_gap_and_tells_legal_moves_with_who_and_why(self) -> None:
        with self.sessions() as session:
            events = session.execute(
                select(Event.seq, Event.data)
                .where(Event.trial_id == self.id, Event.type == "state")
                .order_by(Event.seq)
            ).all()
            seqs = [
                seq
                for table in (Step, Event)
                for seq in session.scalars(select(table.seq).where(table.trial_id == self.id))
            ]
            assert len(set(seqs)) == len(seqs)
            assert max(seqs, default=0) == session.get_one(Trial, self.id).seq == self.n_entries
        before = State.queued
        for _, data in events:
            after = State(data["state"])
            assert data["by"]
            assert "why" in data
            assert "desired" in data or any(
                before in transition.sources and transition.target is after for transition in TRANSITIONS
            )
            self.seen.add((before, after))
            before = after


def test_a_trials_states_follow_the_transition_table_under_any_actions(sessions, worker_settings, new_trial):
    run_state_machine_as_test(
        cast(
            Any, lambda: Life(sessions, worker_settings, new_trial)
        ),  # it takes what makes a machine, not only a class
        settings=settings(max_examples=12, stateful_step_count=25, deadline=None),
    )


def test_each_transition_of_the_table_occurs(sessions, worker_settings, new_trial):
    """Random sequences need not reach all transitions, so this tries them one by one on the same model."""
    life = Life(sessions, worker_settings, new_trial)
    Life.seen.clear()
    running = lambda *more: [life.claim, *more]
    ask = lambda action: lambda: life.ask(action)
    finish = lambda state: lambda: life.finish(state)
    extend = lambda: life.extend(3)
    story = [
        *running(lambda: life.record(2, checkpoint=True), lambda: life.record(1, checkpoint=False)),
        lambda: life.give_back(None),
        *running(ask("pause"), finish(State.paused)), ask("resume"), ask("pause"), extend,
        *running(finish(State.complete)), extend, ask("stop"), extend,
        *running(finish(State.failed)), ask("retry"), ask("cancel"),
        life.submit, ask("pause"), ask("cancel"),
        life.submit, ask("pause"), ask("stop"), extend,
        *running(ask("cancel"), finish(State.cancelled)),
    ]  # fmt: skip
    for happens in story:
        happens()
        life.the_row_says_what_the_model_says()
        life.each_step_is_there_once_and_the_newest_checkpoints_are_kept()
        life.the_journal_counts_without_a_gap_and_tells_legal_moves_with_who_and_why()
    assert {(source, transition.target) for transition in TRANSITIONS for source in transition.sources} <= Life.seen
