"""Which trial is next, decided by a real database."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from threading import Barrier, Event
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, update

from nestor.errors import IllegalTransition
from nestor.schemas import Desired, EventType, State
from nestor_server.models import Study, Trial, User
from nestor_server.scheduling import fair_share, leases
from nestor_server.scheduling.leases import Lease
from tests.worker.trials import events

SLICE = 60.0  # seconds
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def queue(sessions, new_trial) -> Callable[..., UUID]:
    """Queue a trial of a user, in a database where nothing else waits or runs."""
    with sessions.begin() as session:
        unfinished = Trial.state.in_([State.queued, State.running])
        session.execute(update(Trial).where(unfinished).values(state=State.cancelled.value))
    test = uuid4()  # whose users are new, and had no turn yet
    return lambda user, **fields: new_trial(user=f"{user} of {test}", **fields).id


@pytest.fixture
def claim(sessions) -> Callable[[], UUID | None]:
    def claim() -> UUID | None:
        with sessions.begin() as session:
            lease = leases.claim_next(session, uuid4(), "w")
        return None if lease is None else lease.trial_id

    return claim


@pytest.fixture
def lease(queue, sessions) -> Lease:
    """The lease of a trial that has run for longer than its slice."""
    trial = queue("a")
    with sessions.begin() as session:
        lease = leases.claim_next(session, trial, "w")
    assert lease is not None
    has_run_for(sessions, SLICE + 1, trial)
    return lease


def has_run_for(sessions, seconds: float, *trials: UUID) -> None:
    with sessions.begin() as session:
        ago = func.now() - timedelta(seconds=seconds)
        session.execute(update(Trial).where(Trial.id.in_(trials)).values(claimed_at=ago))


def preempted(sessions) -> set[UUID]:
    with sessions.begin() as session:
        fair_share.preempt(session, SLICE)
    with sessions() as session:
        return set(session.scalars(select(Trial.id).where(Trial.desired == Desired.preempt, Trial.state == "running")))


def test_the_oldest_goes_first(queue, claim):
    waiting = [queue("a") for _ in range(3)]
    assert [claim() for _ in range(4)] == [*waiting, None]


def test_a_higher_priority_goes_first_for_any_user(queue, claim):
    low, usual, high = queue("a", priority=-1), queue("a"), queue("a", priority=1)
    other = queue("b")
    assert [claim() for _ in range(4)] == [high, other, usual, low]


def test_a_user_with_many_trials_does_not_keep_others_waiting(queue, claim):
    many = [queue("a") for _ in range(5)]
    few = [queue("b") for _ in range(2)]
    assert [claim() for _ in range(5)] == [many[0], few[0], many[1], few[1], many[2]]


def test_on_one_slot_users_alternate_regardless_of_the_number_and_length_of_their_trials(queue, claim, sessions):
    owner = {queue("a"): "a" for _ in range(4)} | {queue("b"): "b" for _ in range(4)}
    turns = []
    for _ in range(6):
        trial = claim()
        turns.append(owner[trial])
        with sessions.begin() as session:
            session.execute(update(Trial).where(Trial.id == trial).values(state=State.complete.value))
    assert turns == ["a", "b", "a", "b", "a", "b"]


def test_concurrent_claims_take_each_trial_once_and_as_fairly_as_sequential_ones(queue, sessions):
    owner = {queue("a"): "a" for _ in range(12)} | {queue("b"): "b" for _ in range(4)}
    barrier, taken = Barrier(8), []

    def slot(i: int) -> None:
        barrier.wait()
        with sessions.begin() as session:
            lease = leases.claim_next(session, uuid4(), f"w{i}")
            barrier.wait()  # every transaction is open until all have claimed
        assert lease is not None
        taken.append(lease.trial_id)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(slot, range(8)))
    assert len(set(taken)) == 8
    assert sorted(owner[trial] for trial in taken) == ["a"] * 4 + ["b"] * 4


def test_many_slots_take_many_trials_each_once(queue, sessions):
    waiting = {queue(user) for user in "abc" for _ in range(10)}

    def slot(i: int) -> list[UUID]:
        taken = []
        while True:
            with sessions.begin() as session:
                lease = leases.claim_next(session, uuid4(), f"w{i}")
            if lease is None:
                return taken
            taken.append(lease.trial_id)

    with ThreadPoolExecutor(6) as pool:
        taken = [trial for trials in pool.map(slot, range(6)) for trial in trials]
    assert len(taken) == len(waiting)
    assert set(taken) == waiting


def test_each_of_many_open_claims_takes_the_best_of_what_the_others_left(queue, sessions):
    """Sorted here one after the other, for random users with two studies each."""
    dice = random.Random(1)
    owner = {}
    for _ in range(5 * fair_share.HEAD):
        user, ends = dice.choice("abcd"), {"ends_after": 3, "ends_as": "stop"} if dice.random() < 0.1 else {}
        state = dice.choice([State.queued, State.queued, State.running])
        owner[queue(user, state=state, priority=dice.choice([-1, 0]), **ends)] = user
    with sessions.begin() as session:
        for user in "abcd":
            first, *others = [session.get_one(Trial, trial) for trial in owner if owner[trial] == user]
            study = session.get_one(Study, first.study_id)
            second = Study(owner_id=study.owner_id, name="second")
            session.add(second)
            session.flush()
            for trial in dice.sample(others, len(others) // 2):
                trial.study_id = second.id
            if user != "d":  # who was never served
                session.get_one(User, study.owner_id).served_at = NOON + timedelta(minutes=dice.randrange(60))

    with sessions() as session:
        found = select(Trial, User.served_at).join(Study, Study.id == Trial.study_id).join(User)
        rows = session.execute(found.where(Trial.id.in_(owner))).all()
    running = Counter(owner[trial.id] for trial, _ in rows if trial.state == "running")
    waiting = [(trial, served_at or NOON - timedelta(days=1)) for trial, served_at in rows if trial.state == "queued"]
    turns: Counter[str] = Counter()

    def rank(place: tuple[Trial, datetime]) -> tuple[Any, ...]:
        trial, served_at = place
        user = owner[trial.id]
        first = (trial.ends_after is None, -trial.priority)
        return *first, running[user], turns[user], served_at, trial.queued_at, trial.id

    expected = []
    while waiting:
        best = min(waiting, key=rank)
        waiting.remove(best)
        expected.append(best[0].id)
        running[owner[best[0].id]] += 1
        turns[owner[best[0].id]] += 1

    with ExitStack() as stack:
        claims = [stack.enter_context(sessions.begin()) for _ in expected]
        leased = [leases.claim_next(session, uuid4(), f"w{i}") for i, session in enumerate(claims)]
    assert [lease and lease.trial_id for lease in leased] == expected


def test_claims_the_reaper_and_users_never_wait_for_each_other_in_a_circle(queue, sessions):
    """PostgreSQL would end one of them, with an error."""
    trials = [queue(user) for user in "abc" for _ in range(10)]
    done = Event()

    def work(i: int) -> None:
        while not done.is_set():
            with sessions.begin() as session:
                lease = leases.claim_next(session, trials[i], f"w{i}")
            if lease is not None:
                has_run_for(sessions, SLICE + 1, lease.trial_id)
                with suppress(leases.LeaseLost), sessions.begin() as session:
                    leases.renew(session, lease)
                    leases.requeue(session, lease, "others wait")

    def reap() -> None:
        while not done.is_set():
            with sessions.begin() as session:
                leases.sweep_expired(session)
                fair_share.preempt(session, SLICE)

    def use(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(50):
            with suppress(IllegalTransition), sessions.begin() as session:
                leases.request(session, session.get_one(Trial, dice.choice(trials)), dice.choice(["pause", "resume"]))

    with ThreadPoolExecutor(7) as pool:
        others = [*(pool.submit(work, i) for i in range(3)), pool.submit(reap)]
        try:
            for user in [pool.submit(use, seed) for seed in range(3)]:
                user.result()
        finally:
            done.set()
        for other in others:
            other.result()


def test_a_locked_trial_is_skipped_but_a_claim_waits_for_the_trial_that_it_names(queue, claim, sessions):
    first, second = queue("a"), queue("a")
    with sessions.begin() as user:
        user.get_one(Trial, first, with_for_update={"key_share": True})
        assert claim() == second
        with ThreadPoolExecutor(1) as pool, sessions.begin() as session:
            asked = pool.submit(leases.claim_next, session, first, "w")
            user.commit()
            lease = asked.result()
    assert lease is not None
    assert lease.trial_id == first


def test_a_trial_is_preempted_once_its_slice_is_over_and_another_waits(queue, lease, sessions):
    assert preempted(sessions) == set()
    queue("a")
    has_run_for(sessions, SLICE - 10, lease.trial_id)
    assert preempted(sessions) == set()
    has_run_for(sessions, SLICE + 1, lease.trial_id)
    assert preempted(sessions) == {lease.trial_id}


def test_only_as_many_trials_are_preempted_as_wait_and_the_longest_running_first(queue, claim, sessions):
    running = [queue("a") for _ in range(3)]
    for trial in running:
        assert claim() == trial
        has_run_for(sessions, SLICE + 1 + running.index(trial), trial)
    queue("a")
    for _ in range(2):  # looking again changes nothing
        assert preempted(sessions) == {running[2]}


def test_no_trial_is_preempted_for_a_lower_priority_or_for_a_user_with_more_trials(queue, claim, sessions):
    running = {queue("a", priority=1)}
    assert {claim()} == running
    queue("b")
    has_run_for(sessions, SLICE + 1, *running)
    assert preempted(sessions) == set()

    second = queue("c", priority=1)
    assert claim() == second
    queue("c", priority=1)  # c has one, and so has a
    assert preempted(sessions) == set()


def test_a_preempted_trial_is_not_claimed_again_at_once(queue, claim, sessions):
    """For random users and priorities, a trial is preempted exactly if another one should run instead."""
    dice = random.Random(0)
    for _ in range(5):
        for user in "abcd":
            for _ in range(dice.randrange(4)):
                queue(user, priority=dice.choice([0, 0, 0, 1]))
        for _ in range(dice.randrange(1, 6)):
            if (trial := claim()) and dice.random() < 0.7:
                has_run_for(sessions, SLICE + dice.randrange(1, 100), trial)
        leaving = preempted(sessions)
        with sessions.begin() as session:
            gone = update(Trial).where(Trial.id.in_(leaving))
            session.execute(gone.values(state="queued", desired="run", queued_at=func.now() + timedelta(hours=1)))
        assert leaving.isdisjoint({claim() for _ in leaving})


def test_a_trial_of_several_devices_waits_for_a_slot_that_has_them(queue, claim, sessions):
    pair, single = queue("a", devices=2), queue("a")
    assert claim() == single
    with sessions.begin() as session:
        assert leases.claim_next(session, pair, "one") is None
        lease = leases.claim_next(session, pair, "two", devices=2)
    assert lease is not None
    assert lease.trial_id == pair


def test_a_trial_is_preempted_only_for_trials_with_as_many_devices(queue, lease, sessions):
    queue("b", devices=2)
    assert preempted(sessions) == set()
    queue("c")
    assert preempted(sessions) == {lease.trial_id}


def test_preemption_uses_no_budget_and_records_its_reason(queue, lease, sessions):
    queue("a")
    assert preempted(sessions) == {lease.trial_id}
    with sessions.begin() as session:
        assert leases.renew(session, lease) is Desired.preempt
        assert leases.requeue(session, lease, "others wait") is State.queued
    with sessions() as session:
        row = session.get_one(Trial, lease.trial_id)
        assert (row.restarts, row.preemptions, row.desired) == (0, 0, "run")
        assert events(session, row.id, EventType.state)[-1]["why"] == "others wait"


def test_a_users_request_takes_precedence_over_preemption(queue, lease, sessions):
    queue("a")
    preempted(sessions)
    with sessions.begin() as session:
        leases.request(session, session.get_one(Trial, lease.trial_id), "pause")
        assert leases.requeue(session, lease, "others wait") is State.paused
