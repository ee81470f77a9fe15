"""The life of a trial as pure functions: no database, no thread, no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import pytest
import torch

import nestor_server
from nestor import lifecycle
from nestor.errors import (
    Diverged,
    IllegalTransition,
    InvalidInput,
    arguments_of,
)
from nestor.lifecycle import MEANINGS, OBEDIENCE, RECENT, TRANSITIONS, UserAction
from nestor.schemas import MOST_STEPS, Desired, EndingAction, State

# What a user may ask for: a table that a reader can check against the drawing in the module.
ALLOWED: dict[State, set[str]] = {
    State.queued: {"stop", "cancel", "pause", "prune"},
    State.paused: {"resume", "stop", "cancel", "prune", "extend"},
    State.complete: {"extend"},
    State.pruned: {"extend"},
    State.failed: {"retry"},
    State.cancelled: set(),
}
ALLOWED_WHILE_RUNNING: dict[Desired, set[str]] = {
    Desired.run: {"stop", "cancel", "pause", "prune"},
    Desired.preempt: {"stop", "cancel", "pause", "prune"},
    Desired.stop: {"resume", "cancel", "pause", "prune"},
    Desired.prune: {"resume", "cancel", "pause", "stop"},
    Desired.pause: {"resume", "stop", "cancel", "prune"},
    Desired.cancel: set(),
}
ALL = list(product(State, Desired))


@pytest.mark.parametrize(("state", "desired"), ALL, ids=str)
def test_the_allowed_actions_are_those_of_the_table(state: State, desired: Desired):
    expected = ALLOWED_WHILE_RUNNING[desired] if state is State.running else ALLOWED[state]
    assert set(lifecycle.allowed_actions(state, desired)) == expected


@pytest.mark.parametrize(("state", "desired", "action"), [(*pair, a) for pair, a in product(ALL, MEANINGS)], ids=str)
def test_an_action_is_answered_by_a_transition_a_desired_state_nothing_or_a_refusal(
    state: State, desired: Desired, action: UserAction
):
    allowed, meaning = lifecycle.allowed_actions(state, desired), MEANINGS[action]
    if action in allowed:
        answer = lifecycle.respond(state, desired, action)
        assert answer == (meaning.desired if state is State.running else meaning.transition)
        assert state is State.running or state in meaning.transition.sources
        return
    canceling = (state, desired) == (State.running, Desired.cancel)
    repeats = action == "cancel" if canceling else state in (State.running, meaning.transition.target)
    if repeats and action != "extend":
        assert lifecycle.respond(state, desired, action) is None
        return
    being = "being cancelled" if canceling else state.value
    words = "nothing else" if canceling else ", ".join(allowed) or "nothing"
    with pytest.raises(IllegalTransition) as refused:
        lifecycle.respond(state, desired, action)
    assert str(refused.value) == f"A trial that is {being} cannot {action}. From here it can: {words}."


def test_every_state_but_cancelled_is_left_and_every_one_is_reached():
    assert {state for state in State if not any(state in t.sources for t in TRANSITIONS)} == {State.cancelled}
    assert {t.target for t in TRANSITIONS} == set(State)
    assert len({t.name for t in TRANSITIONS}) == len(TRANSITIONS)


def test_a_worker_can_obey_what_a_user_can_ask_of_a_running_trial():
    asked = {meaning.desired for meaning in MEANINGS.values()} - {None, Desired.run}
    assert asked == set(OBEDIENCE)
    assert all(State.running in obedience.transition.sources for obedience in OBEDIENCE.values())
    for state in (State.complete, State.pruned, State.failed, State.cancelled, State.paused):
        assert lifecycle.transition_to(state).target is state
        assert State.running in lifecycle.transition_to(state).sources


@pytest.mark.parametrize("state", State, ids=str)
def test_a_finished_trial_has_an_end_and_a_queued_one_neither_end_nor_error(state: State):
    changes = lifecycle.changes_on_entry(state, "now")
    assert changes.get("finished_at", "") == ("now" if state.finished else None if state is State.queued else "")
    assert ("error" in changes) == (state is State.queued)


def test_attempts_are_read_from_the_changes_of_state():
    at = datetime(2026, 1, 1, tzinfo=UTC)
    changes = [
        {"state": "queued", "by": "user", "why": "submitted"},
        {"state": "running", "by": "w1", "why": "a worker is free", "attempt": 1},
        {"state": "running", "by": "user", "why": "pause was asked for", "desired": "pause"},
        {"state": "paused", "by": "w1", "why": "paused, as was asked for", "attempt": 1},
        {"state": "queued", "by": "user", "why": "resume was asked for", "attempt": 1},
        {"state": "running", "by": "w2", "why": "a worker is free", "attempt": 2},
    ]
    found = lifecycle.attempts((data, at + timedelta(seconds=i)) for i, data in enumerate(changes))
    assert [(a.number, a.worker, a.state, a.why) for a in found] == [
        (1, "w1", "paused", "paused, as was asked for"),
        (2, "w2", "running", None),
    ]
    assert (found[0].started_at, found[0].ended_at, found[1].ended_at) == (
        at + timedelta(seconds=1),
        at + timedelta(seconds=3),
        None,
    )


@pytest.mark.parametrize("action", ["stop", "prune"])
@pytest.mark.parametrize(("state", "desired"), ALL, ids=str)
def test_an_end_after_a_step_returns_to_it_if_the_trial_has_gone_on(
    state: State, desired: Desired, action: EndingAction
):
    ahead = lambda step: lifecycle.respond_after(state, desired, action, step=step, after=3)
    if state is State.cancelled or (state is State.running and desired is Desired.cancel):
        with pytest.raises(IllegalTransition, match="cancelled"):
            ahead(5)
    elif state in (State.queued, State.running):
        assert {ahead(step) for step in (2, 3, 5)} == {MEANINGS[action].desired}
    else:
        assert ahead(5) is lifecycle.REWIND
        if state is State.failed:
            assert ahead(3) is lifecycle.REWIND  # the step behind it failed
        elif state is State.complete:
            assert ahead(3) is (None if action == "stop" else lifecycle.PRUNE)


def test_steps_are_counted_from_the_end_of_a_complete_trial_and_from_the_plan_of_a_paused_one():
    assert lifecycle.steps_after_extension(State.complete, 4, 10, 5) == 9
    assert lifecycle.steps_after_extension(State.pruned, 4, 10, 5) == 9
    assert lifecycle.steps_after_extension(State.paused, 4, 10, 5) == 15
    with pytest.raises(InvalidInput, match="at most 2,147,483,647"):
        lifecycle.steps_after_extension(State.paused, 0, MOST_STEPS, 1)


EXHAUSTED = [  # of Python, of a device, and of torch on the CPU
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", EXHAUSTED, ids=lambda error: type(error).__name__)
def test_exhausted_memory_is_a_failure_of_its_own_and_no_mistake_in_an_argument(error: Exception):
    memory = lifecycle.failure(error).problem()
    assert (memory["code"], memory["title"]) == ("out-of-memory", "Out Of Memory")
    assert "smaller batches" in memory["detail"]
    with pytest.raises(type(error)), arguments_of("fit"):
        raise error


def test_a_failure_is_a_problem_document_of_its_own_code():
    known = lifecycle.failure(Diverged(step=3, what="loss", where="weights")).problem()
    assert (known["code"], known["title"], known["status"]) == ("diverged", "Diverged", 500)
    assert known["type"] == "https://nestor.invalid/errors/diverged"
    assert known["detail"].startswith("Step 3: the loss is not finite.")
    foreign = lifecycle.failure(ZeroDivisionError("division by zero")).problem()
    assert foreign["code"] == "problem-failed"
    assert "failed with ZeroDivisionError: division by zero. Run problem.check()" in foreign["detail"]
    qualified = lifecycle.failure(subprocess.SubprocessError("x"))
    assert "failed with subprocess.SubprocessError: x" in str(qualified)


def test_what_is_evicted_is_what_is_not_retained_any_more():
    kept: set[int] = set()
    for newest in range(1, 5 * RECENT):
        kept = kept - set(lifecycle.evicted_steps(newest, 1)) | {newest}
        if newest % 97 == 0:
            assert kept == {step for step in range(1, newest + 1) if lifecycle.is_retained(step, newest, 1)}


def test_the_module_is_pure():
    program = (
        "import sys, nestor.lifecycle; sys.exit(bool({'torch', 'sqlalchemy', 'nestor_engine'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_server_changes_a_state_in_one_statement_alone():
    """Every other UPDATE leaves `state` as it is, so that each change is a transition of the table and is recorded."""
    found = set()
    for path in Path(nestor_server.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                writes = {"values", "write", "update"} & {getattr(node.func, "attr", ""), getattr(node.func, "id", "")}
                if writes and any(keyword.arg == "state" for keyword in node.keywords):
                    found.add(path.name)
            assigned = [target for target in getattr(node, "targets", []) if isinstance(target, ast.Attribute)]
            if any(target.attr == "state" and ast.unparse(target.value) != "app" for target in assigned):
                found.add(path.name)
    assert found == {"state_machine.py"}
