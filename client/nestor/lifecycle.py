"""The life of a trial, as pure functions: the server's SQL, the worker and the in-process backend stand on it.

    queued ──claim──► running ──► complete | pruned | failed | cancelled | paused
       ▲                 │
       ├──── requeue ────┘        from its newest checkpoint, until a budget is spent
       ├──── resume               paused
       ├──── extend               complete, pruned, paused: more steps, the same weights
       ├──── retry                failed: from its newest checkpoint, with fresh budgets
       └──── rewind               its user asked for an end after a step, and it has gone on: back to that step

Without a worker, the user's actions are transitions: a queued or paused trial also becomes complete (stop), pruned
(prune) or cancelled (cancel), and a queued one paused (pause). A running trial belongs to the worker that holds it,
which reads the desired state and makes the transition itself.

A callback that asks for an end watches from another process, so the worker may be some steps ahead of it. Such a
request names the step after which the trial is to end. Steps behind it are withdrawn, and the trial is trained again
from the checkpoint before that step up to it: so it has the weights of that step, with the same bits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeVar

from nestor.errors import (
    IllegalTransition,
    NestorError,
    OutOfMemory,
    ProblemFailed,
    TooManySteps,
    is_out_of_memory,
)
from nestor.schemas import (
    MOST_STEPS,
    Action,
    Attempt,
    Desired,
    EndingAction,
    State,
    WhichStep,
)
from nestor.schemas.thinning import doubling_interval

T = TypeVar("T")

UserAction = Action | Literal["extend"]


# --- states and transitions -----------------------------------------------------------------------


@dataclass(frozen=True)
class Transition:
    """A legal change of a trial's state: from any of `sources` to `target`."""

    name: str
    sources: frozenset[State]
    target: State


def _transition(name: str, *sources: State, to: State) -> Transition:
    return Transition(name, frozenset(sources), to)


CLAIM = _transition("claim", State.queued, to=State.running)
REQUEUE = _transition("requeue", State.running, to=State.queued)
COMPLETE = _transition("complete", State.running, State.queued, State.paused, to=State.complete)
FAIL = _transition("fail", State.running, to=State.failed)
# A complete trial is pruned only by the callback that saw its last step.
PRUNE = _transition("prune", State.running, State.queued, State.paused, State.complete, to=State.pruned)
CANCEL = _transition("cancel", State.running, State.queued, State.paused, to=State.cancelled)
PAUSE = _transition("pause", State.running, State.queued, to=State.paused)
RESUME = _transition("resume", State.paused, to=State.queued)
EXTEND = _transition("extend", State.complete, State.pruned, State.paused, to=State.queued)
RETRY = _transition("retry", State.failed, to=State.queued)
REWIND = _transition("rewind", State.complete, State.pruned, State.failed, State.paused, to=State.queued)

TRANSITIONS = (CLAIM, REQUEUE, COMPLETE, FAIL, PRUNE, CANCEL, PAUSE, RESUME, EXTEND, RETRY, REWIND)


def changes_on_entry(target: State, now: T) -> dict[str, T | None]:
    """What else changes in a trial's record when it enters `target`; `now` in the caller's own kind of time."""
    if target is State.queued:
        return {"finished_at": None, "error": None}
    return {"finished_at": now} if target.finished else {}


# --- what a user may ask for ----------------------------------------------------------------------


@dataclass(frozen=True)
class Meaning:
    """What an action asks for: a desired state of the worker that holds the trial, a transition where none does."""

    transition: Transition
    desired: Desired | None  # None: only a trial that no worker holds can do it


MEANINGS: dict[UserAction, Meaning] = {
    "resume": Meaning(RESUME, Desired.run),
    "retry": Meaning(RETRY, Desired.run),
    "stop": Meaning(COMPLETE, Desired.stop),
    "cancel": Meaning(CANCEL, Desired.cancel),
    "pause": Meaning(PAUSE, Desired.pause),
    "prune": Meaning(PRUNE, Desired.prune),
    "extend": Meaning(EXTEND, None),
}


def respond(state: State, desired: Desired, action: UserAction) -> Transition | Desired | None:
    """What follows when a user asks for `action`.

    Returns:
        The transition to make at once; or the desired state to tell the worker that holds the trial; or None, where
        the trial is already so or was already asked to be so: asking again changes nothing.

    Raises:
        IllegalTransition: the action is not possible now; the error lists those that are.
    """
    meaning, allowed = MEANINGS[action], allowed_actions(state, desired)
    if action in allowed:
        return meaning.desired if state is State.running else meaning.transition
    if state is State.running and desired is Desired.cancel and action != "cancel":
        raise IllegalTransition(state="being cancelled", action=action, allowed="nothing else")
    if meaning.desired is not None and state in (State.running, meaning.transition.target):
        return None
    raise IllegalTransition(state=state.value, action=action, allowed=", ".join(allowed) or "nothing")


def respond_after(
    state: State, desired: Desired, action: EndingAction, *, step: int, after: int
) -> Transition | Desired | None:
    """What follows when a user asks for an end after step `after` of a trial whose last recorded step is `step`.

    Returns:
        `REWIND` if the trial has gone on; the desired state also for a queued trial, which is to end after that step;
        else what `respond` returns.

    Raises:
        IllegalTransition: the trial is cancelled, or is being cancelled.
    """
    if state is State.queued or (state is State.running and desired is not Desired.cancel):
        return MEANINGS[action].desired
    if state in REWIND.sources and (step > after or (state is State.failed and step == after)):
        return REWIND
    if (state, action) == (State.complete, "prune"):
        return PRUNE
    return respond(state, desired, action)


def allowed_actions(state: State, desired: Desired) -> tuple[UserAction, ...]:
    """The actions that would change something now: `respond` refuses the others, or does nothing."""
    return tuple(action for action in MEANINGS if _is_allowed(state, desired, action))


def _is_allowed(state: State, desired: Desired, action: UserAction) -> bool:
    meaning = MEANINGS[action]
    if state is not State.running:
        return state in meaning.transition.sources and (state, action) != (State.complete, "prune")
    takes_back = action == "resume"  # a stop, a pause or a prune that the worker has not obeyed yet
    if desired is Desired.cancel or not (takes_back or state in meaning.transition.sources):
        return False
    return meaning.desired is not _desired_by_user(desired)


def _desired_by_user(desired: Desired) -> Desired:
    """A trial that is preempted is one that its user wants to run."""
    return Desired.run if desired is Desired.preempt else desired


# --- what a worker does ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Obedience:
    """How a worker obeys a desired state, and the reason that it records."""

    transition: Transition
    why: str


OBEDIENCE: dict[Desired, Obedience] = {
    Desired.stop: Obedience(COMPLETE, "stopped early, as was asked for"),
    Desired.prune: Obedience(PRUNE, "pruned, as was asked for"),
    Desired.cancel: Obedience(CANCEL, "cancelled, as was asked for"),
    Desired.pause: Obedience(PAUSE, "paused, as was asked for"),
}


def transition_to(state: State) -> Transition:
    """How a worker ends its attempt in `state`: complete, pruned, failed, cancelled or paused."""
    return next(end for end in (COMPLETE, PRUNE, FAIL, CANCEL, PAUSE) if end.target is state)


def numbers_up_to(n_trials: int) -> str:
    """The numbers of a study's trials, as a sentence says them."""
    return f"0 to {n_trials - 1}" if n_trials > 1 else "0" if n_trials else "none yet"


def why_asked(action: str, after: int | None = None) -> str:
    """The reason that is recorded where a user's action changes a trial."""
    return f"{action} was asked for" + ("" if after is None else f" after step {after}")


def why_extended(steps: int) -> str:
    """The reason that is recorded when a user asks for `steps` more."""
    return f"{steps} more steps were asked for"


def why_prioritized(priority: int) -> str:
    """The reason that is recorded when a user changes a trial's priority."""
    return f"its priority is {priority} now"


def why_complete(step: int, n_steps: int, *, time_is_up: bool) -> str:
    """The reason that is recorded when a training ends by itself after `step` of `n_steps` outer steps."""
    if step >= n_steps:
        return f"all {step} steps are taken"
    return "its time is up" if time_is_up else "the held-out loss no longer improves"


WHY_AGAIN = "the last step is recorded again, with an evaluation"
WHY_SUBMITTED = "submitted"
WHY_CLAIMED = "a worker is free"


def where_it_starts(device: str, step: int) -> str:
    """The first log line of an attempt on `device` that begins after outer step `step`."""
    return f"runs on {device}, {'from the beginning' if step == 0 else f'on from step {step}'}"


def steps_after_extension(state: State, step: int, n_steps: int, more: int) -> int:
    """All the steps of a trial that is to take `more`: one that has ended counts them from `step`, its last.

    Raises:
        TooManySteps: more than a trial can count.
    """
    extended = (step if state.finished else n_steps) + more
    if extended > MOST_STEPS:
        raise TooManySteps(n_steps=extended, limit=MOST_STEPS)
    return extended


# --- attempts -------------------------------------------------------------------------------------


def attempts(changes: Iterable[tuple[dict[str, Any], datetime]]) -> list[Attempt]:
    """A trial's attempts, from its `state` events in order, each with its time.

    Each attempt begins when the trial enters `running` and ends with the next transition. Events without an
    `attempt` report what a user desires, and change no state.
    """
    found: list[Attempt] = []
    for data, at in changes:
        if "attempt" not in data:
            continue
        if data["state"] == State.running:
            found.append(Attempt(number=data["attempt"], worker=data["by"], started_at=at))
        elif found and found[-1].ended_at is None:  # else no worker held the trial
            ended = {"ended_at": at, "state": State(data["state"]), "why": data["why"]}
            found[-1] = found[-1].model_copy(update=ended)
    return found


# --- failures -------------------------------------------------------------------------------------


def failure(error: BaseException) -> NestorError:
    """The error that a failed trial keeps: `error` itself if it explains itself, else what it amounts to."""
    if isinstance(error, NestorError):
        return error
    if is_out_of_memory(error):
        return OutOfMemory()
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    return ProblemFailed(reason=f"{name}: {error}")


# --- steps that are not kept --------------------------------------------------------------------------------


SHOWN_STEPS = 20  # of those that have files


def missing_step(asked: WhichStep | None, best_step: int | None, stored: Iterable[int] = ()) -> str:
    """Which step has no files, as the end of the sentence "it has no checkpoint …".

    Args:
        asked: as a user named it; None: any.
        best_step: of the trial.
        stored: steps that have files, of which the last ones are named.
    """
    if asked is None or asked == "latest":
        return "yet"
    known = ", ".join(map(str, sorted(stored)[-SHOWN_STEPS:])) or "none"
    if asked != "best":
        return f"of step {asked} (stored: {known})"
    which = "of a best step: none was evaluated yet" if best_step is None else f"of step {best_step}, the best so far"
    return f"{which} (stored: {known})"


# --- retention of snapshots -----------------------------------------------------------------------

ALL_BELOW_BYTES = 64 * 1024  # every step's hyperparameters are kept while they are small,
KEPT = 100  # and about so many of a whole trial otherwise
TRANSFORMS_KEY = "nestor.transforms"  # in the metadata of a snapshot
RECENT = 256  # of the newest that are kept, all; of those before them, with every doubling of their age half as many


def snapshot_metadata(transforms: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a snapshot's file, for `nestor.load_values`: hyperparameter → transform, in order."""
    return {TRANSFORMS_KEY: json.dumps(dict(transforms))}


def snapshot_interval(nbytes: int, n_steps: int) -> int:
    """Outer steps between two snapshots of `nbytes` in a trial of `n_steps`; the best and the last are kept besides."""
    return 1 if nbytes <= ALL_BELOW_BYTES else max(1, math.ceil(n_steps / KEPT))


def is_due(step: int, n_steps: int, every: int) -> bool:
    """Whether a snapshot is taken at `step`, whatever its value."""
    return step % every == 0 or step == n_steps


def is_retained(step: int, newest: int, every: int) -> bool:
    """Whether a snapshot that was taken every `every` steps at `step` is still kept when there is one of `newest`.

    The steps that are kept of one age are among those that were kept of any age before, so none that was dropped is
    missed.
    """
    age = (newest - step) // every
    return step % (every * 2 ** (age // RECENT).bit_length()) == 0


def evicted_steps(newest: int, every: int) -> list[int]:
    """The steps that `is_retained` gives up when a snapshot of `newest` is taken."""
    ages = (RECENT * 2**k for k in range(newest.bit_length()))
    steps = [newest - age * every for age in ages]
    return [step for step in steps if step > 0 and not is_retained(step, newest, every)]


# --- retention of distributions -------------------------------------------------------------------

MAX_DISTRIBUTIONS = 1024  # steps whose distributions are kept, besides step 0 and the last one,
DISTRIBUTIONS_BYTES = 32 * 2**20  # and fewer of a trial with many hyperparameters, so that all fit into this,
DISTRIBUTION_BYTES = 1024  # where that of one hyperparameter at one step takes at most so many, as JSON


def count_with_distributions(shapes: Iterable[Sequence[int]]) -> int:
    """The number of hyperparameters that have several entries, and so a distribution."""
    return sum(math.prod(shape) > 1 for shape in shapes)


def distribution_interval(newest: int, hyperparameters: int) -> int:
    """Outer steps between those whose distributions are kept of a trial at step `newest`, a power of two.

    They are the multiples of the interval, 0 included, and the last step. The interval doubles as the trial grows, so
    what is kept follows from `newest` alone, whatever was withdrawn and taken again before.

    Args:
        hyperparameters: with several entries.
    """
    fitting = DISTRIBUTIONS_BYTES // (DISTRIBUTION_BYTES * max(1, hyperparameters))
    return doubling_interval(newest, max(2, min(MAX_DISTRIBUTIONS, fitting - 2)))  # besides step 0 and the last step
