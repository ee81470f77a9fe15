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
ENDINGS = ("stop", "prune")
GRANTED = {
    Desired.stop: State.complete,
    Desired.prune: State.pruned,
    Desired.cancel: State.cancelled,
    Desired.pause: State.paused,
}


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
        self.end: tuple[int, str] | None = None  # the step after which it is to end, and the action
        self.checkpoints = list[int]()
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
        sources = transition.sources - {State.complete}  # a callback alone prunes a complete trial
        legal = self.state in (State.running, transition.target, *sources) and not taken_back
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
                if action in ENDINGS or (action == "resume" and self.desired in ENDINGS):
                    self.end = None
                self.desired = desired
        elif self.state in transition.sources:
            self.n_entries += 1
            if action in (*ENDINGS, "cancel"):
                self.end = None
            self.state, self.desired = transition.target, desired
            if action == "retry":
                self.restarts = self.preemptions = 0

    @rule(action=st.sampled_from(ENDINGS), after=st.integers(1, 6))
    def ask_for_an_end_after_a_step(self, action, after) -> None:
        canceled = self.state is State.cancelled or (self.state is State.running and self.desired is Desired.cancel)
        given_up = self.state is State.pruned and action == "stop" and self.step <= after
        too_early = self.state is State.failed and self.step < after
        with self.sessions.begin() as session:
            trial = session.get_one(Trial, self.id)
            if canceled or given_up or too_early:
                with pytest.raises(IllegalTransition):
                    leases.request_end(session, trial, action, after)
                return
            leases.request_end(session, trial, action, after)
        target = State.complete if action == "stop" else State.pruned
        if self.state is State.running:
            self.n_entries += self.end != (after, action)
            self.desired, self.end = Desired(action), (after, action)
        elif self.state is State.queued:
            if self.end != (after, action):
                self._return_to(after)
                self.n_entries += 1
                self.end = (after, action)
        elif self.step > after or self.state is State.failed:
            self._return_to(after)
            self.n_entries += 1
            self.seen.add((self.state, State.queued))
            self.state, self.desired, self.end, self.restarts, self.preemptions = (
                State.queued, Desired.run, (after, action), 0, 0
            )  # fmt: skip
        elif self.state is State.paused or (self.state is State.complete and action == "prune"):
            self.n_entries += 1
            self.state, self.desired, self.end = target, Desired(action), None

    def _return_to(self, after: int) -> None:
        if self.step > after:
            self.n_entries += 1
            self.step = after
        self.checkpoints = [kept for kept in self.checkpoints if kept <= after]
        self.checkpoint = max(self.checkpoints, default=0)

    @rule(steps=st.integers(1, 5))
    def extend(self, steps) -> None:
        with self.sessions.begin() as session:
            trial = session.get_one(Trial, self.id)
            if self.state not in (State.complete, State.pruned, State.paused):
                with pytest.raises(IllegalTransition):
                    leases.extend(session, trial, steps)
                return
            leases.extend(session, trial, steps)
        self.n_entries += 1
        self.n_steps = steps + (self.n_steps if self.state is State.paused else self.step)
        self.end = None
        self.state, self.desired, self.restarts, self.preemptions = State.queued, Desired.run, 0, 0

    # --- workers ----------------------------------------------------------------------------------

    @rule()
    def claim(self) -> None:
        with self.sessions.begin() as session:
            lease = leases.claim(session, self.id, "worker")
        assert (lease is not None) == (self.state is State.queued)
        if lease is not None:
            # With a rewind, also of a snapshot alone.
            self.n_entries += 1 + (self.step > self.checkpoint)
            self.state, self.lease, self.attempt, self.step = State.running, lease, self.attempt + 1, self.checkpoint
            self.sent = []

    @running
    @rule(n=st.integers(1, 3), checkpoint=st.booleans())
    def record(self, n, checkpoint) -> None:
        steps = tuple(step(self.step + 1 + i) for i in range(n))
        kept = (TensorFile(self.step + n, b"at %d" % (self.step + n)),) if checkpoint else ()
        best = (TensorFile(1, b"best"),) if self.step == 0 else ()  # of equal steps the first
        number = len(self.sent) + 1
        batch = RecordedBatch(steps=steps, snapshots=best, results=best, checkpoints=kept, number=number)
        self.sent.append(batch)
        self._write(self.sent[-1])
        self.step, self.n_entries = self.step + n, self.n_entries + n + len(best)
        if checkpoint:
            self.checkpoints = [*self.checkpoints, self.step][-recording.CHECKPOINTS_KEPT :]
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
            assert reached is self._given_up(None)
            return
        if state in (State.complete, State.failed):
            state = self._requested(state)
        assert reached is state
        self._end(state)

    def _requested(self, state: State) -> State:
        if self.end is None:
            return State.pruned if state is State.complete and self.desired is Desired.prune else state
        after, action = self.end
        if state is State.failed and self.step < after:
            return state
        if state is State.complete and self.step <= after:
            if self.step < after:
                return State.queued if self.desired in ENDINGS else state
            return State.complete if action == "stop" else State.pruned
        self._return_to(after)
        return State.queued

    @running
    @rule(action=st.sampled_from(["pause", "pause", "stop", "prune", "cancel"]))
    def ask_and_be_obeyed(self, action) -> None:
        self.ask(action)
        granted = GRANTED[self.desired]
        self.finish(State.complete if granted is State.pruned else granted)

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
        if self.desired in ENDINGS and self.end is not None:
            self._return_to(self.end[0])
            return self._end(State.queued)
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
        if state is State.queued:
            self.desired = Desired.run
        if state.finished:
            self.end = None
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
            assert (row.ends_after, row.ends_as) == (self.end or (None, None))
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
    end_after = lambda action, after: lambda: life.ask_for_an_end_after_a_step(action, after)
    record = lambda n: lambda: life.record(n, checkpoint=True)
    story = [
        *running(lambda: life.record(2, checkpoint=True), lambda: life.record(1, checkpoint=False)),
        lambda: life.give_back(None),
        *running(ask("pause"), finish(State.paused)), ask("resume"), ask("pause"), extend,
        *running(finish(State.complete)), extend, ask("stop"), extend,
        *running(finish(State.failed)), ask("retry"), ask("cancel"),
        life.submit, ask("pause"), ask("cancel"),
        life.submit, ask("pause"), ask("stop"), extend,
        *running(record(3), finish(State.complete)), end_after("stop", 2),
        *running(record(1), record(1), finish(State.complete)), end_after("prune", 2), end_after("prune", 1),
        *running(ask("prune"), finish(State.complete)), extend,
        *running(record(3), finish(State.failed)), end_after("prune", 2),
        ask("pause"), end_after("stop", 1), ask("prune"), extend, ask("prune"),
        life.submit, ask("pause"), ask("prune"), extend,
        *running(ask("cancel"), finish(State.cancelled)),
    ]  # fmt: skip
    for happens in story:
        happens()
        life.the_row_says_what_the_model_says()
        life.each_step_is_there_once_and_the_newest_checkpoints_are_kept()
        life.the_journal_counts_without_a_gap_and_tells_legal_moves_with_who_and_why()
    assert {(source, transition.target) for transition in TRANSITIONS for source in transition.sources} <= Life.seen
