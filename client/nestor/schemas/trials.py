"""Trials: their states, what a user can ask of them, and how they are listed."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

from nestor.options.base import about
from nestor.schemas.base import CURSOR, NOTE, SEQ, Count, Priority, Schema
from nestor.schemas.patches import Patch
from nestor.schemas.problems import TrialSpec

WhichStep = int | Literal["best", "latest"]  # of which weights are read


class State(StrEnum):
    """The state of a trial; `nestor.lifecycle` has the transitions."""

    queued = "queued"
    running = "running"
    paused = "paused"
    complete = "complete"
    pruned = "pruned"  # its user gave it up; it keeps what it recorded
    failed = "failed"
    cancelled = "cancelled"

    @property
    def finished(self) -> bool:
        """Whether the trial takes no more steps unless a user retries or extends it."""
        return self in (State.complete, State.pruned, State.failed, State.cancelled)


class Desired(StrEnum):
    """What a worker is to do with the trial that it holds; it learns so with each renewal of its lease."""

    run = "run"
    stop = "stop"  # keep the result
    prune = "prune"  # keep the records, as those of a trial that was given up
    cancel = "cancel"
    pause = "pause"
    preempt = "preempt"  # set by the server: write a checkpoint and queue again, because other trials wait


Action = Literal["stop", "cancel", "pause", "prune", "resume", "retry"]  # the actions of a user other than extend
EndingAction = Literal["stop", "prune"]


class TrialPatch(Patch):
    """Changes to a trial, also after its end: a JSON merge patch (RFC 7396). What is left out stays as it is."""


class TrialEnd(Schema):
    """When a trial that is stopped or pruned is to end."""

    after_step: Annotated[
        Count | None,
        about(
            "the last step that counts: later ones are withdrawn, and steps since the checkpoint before are computed "
            "again; null: the step that it takes now",
            unit="outer steps",
            example=120,
        ),
    ] = None


class TrialExtend(Schema):
    """A request for more steps."""

    steps: Annotated[Count, about("outer steps to add", unit="outer steps", example=100)]


class TrialPriority(Schema):
    """A new priority of a trial."""

    priority: Annotated[
        Priority, about("trials of higher priority start first; above 0 requires an admin token", example=-1)
    ]


class Attempt(Schema):
    """One lease of a trial by one worker, and why it ended."""

    number: Annotated[int, about("from 1", example=1)]
    worker: Annotated[str | None, about("the worker's name", example="gpu-1:4242")]
    started_at: Annotated[datetime, about("in UTC")]
    ended_at: Annotated[datetime | None, about("in UTC; null: the attempt is running")] = None
    state: Annotated[State, about("the state of the trial after the attempt")] = State.running
    why: Annotated[
        str | None, about("why the attempt ended, as a sentence", example="The worker stopped its heartbeat.")
    ] = None


class Attempts(Schema):
    """Attempts at a trial."""

    items: Annotated[tuple[Attempt, ...], about("in order of their numbers")]
    next_cursor: Annotated[str | None, CURSOR] = None


Answer = Literal["yes", "with care", "no"]


class Verdict(Schema):
    """Whether the result of a trial can be relied on, and what to do. docs/verdict.md lists all codes."""

    answer: Annotated[Answer, about("yes, with care or no")]
    code: Annotated[str, about("names the reason, such as overfitting", example="overfitting")]
    sentence: Annotated[
        str,
        about(
            "the reason, with the trial's numbers", example="The held-out loss rose from 0.31 to 0.42 after step 120."
        ),
    ]
    remedy: Annotated[
        str, about("what to do, as one or more sentences", example="Use the best step, or tune fewer hyperparameters.")
    ]

    def __str__(self) -> str:
        return f"{self.answer}. {self.sentence} {self.remedy}"


_PACE = about(
    "outer steps per second of training, over the newest minute or more of the present attempt, without queues and "
    "pauses; null: it is not running, or has recorded too few steps",
    unit="steps per second",
    example=2.5,
)
_ETA = about(
    "training time until its last step, or until its timeout, at `steps_per_second`; it may stop before by itself; "
    "null as there",
    unit="seconds",
    example=84.0,
)


_TRIAL_WORKER = about("the worker that holds it, as `GET /workers` names it", example="gpu-1:4242")


class Curve(Schema):
    """Values at some steps, for a small plot."""

    steps: Annotated[
        tuple[int, ...], about("numbers of the steps, in order", unit="outer steps", example=[1, 5, 10])
    ] = ()
    values: Annotated[
        tuple[float, ...],
        about("the value by which the study ranks, at each of these steps", example=[0.41, 0.22, 0.17]),
    ] = ()


class Trial(Schema):
    """A trial as of one moment."""

    id: Annotated[UUID, about("identifies the trial in paths of the API")]
    study_id: Annotated[UUID, about("the study that it belongs to")]
    number: Annotated[int, about("unique in its study, from 0", example=3)]
    state: Annotated[State, about("queued, running, paused, or one of four finished states")]
    desired: Annotated[Desired, about("what its worker is asked to do")]
    allowed_actions: Annotated[
        tuple[str, ...], about("actions that would change something now", example=["pause", "stop", "cancel"])
    ]
    spec: Annotated[TrialSpec, about("the problem and the options, as submitted")]
    tunes: Annotated[
        bool,
        about("false: it is trained under fixed hyperparameters, as a baseline, and is never the best of its study"),
    ]
    starts_from: Annotated[UUID | None, about("the trial that it is warm-started from, in any study; null: none")]
    priority: Annotated[int, about("the current priority; the spec has the submitted one", example=0)]
    step: Annotated[int, about("recorded outer steps", unit="outer steps", example=120)]
    n_steps: Annotated[int, about("outer steps in all, with extensions", unit="outer steps", example=300)]
    value: Annotated[
        float | None,
        about(
            "the study's metric at the last evaluated step, on all held-out examples, or on all validation examples if "
            "none are held out; without a metric, the loss",
            example=0.181,
        ),
    ]
    first_value: Annotated[
        float | None, about("the same at the first evaluated step, where the trial began", example=0.442)
    ] = None
    best_value: Annotated[float | None, about("the best value of any step, in the study's direction", example=0.173)]
    best_step: Annotated[int | None, about("the first step with the best value; its weights are kept", example=110)]
    verdict: Annotated[
        Verdict | None,
        about(
            "whether the result can be relied on, from all steps so far; null: before the first step, or an earlier "
            "version recorded them"
        ),
    ] = None
    attempt: Annotated[int, about("number of attempts so far", example=1)]
    restarts: Annotated[
        int, about("attempts since the newest checkpoint that ended unexpectedly; too many fail the trial", example=0)
    ]
    preemptions: Annotated[
        int, about("shutdowns of its worker since the newest checkpoint; too many fail the trial", example=0)
    ]
    seconds: Annotated[
        float, about("wall time that it has trained, over all its attempts", unit="seconds", example=42.5)
    ]
    steps_per_second: Annotated[float | None, _PACE] = None
    eta_seconds: Annotated[float | None, _ETA] = None
    error: Annotated[
        dict[str, Any] | None,
        about(
            "why it failed, as problem+json",
            example={"code": "diverged", "detail": "Step 1: the training loss is not finite."},
        ),
    ]
    user_attrs: Annotated[
        dict[str, Any], about("as its user set them, at the submission or later", example={"owner": "ada"})
    ]
    tags: Annotated[tuple[str, ...], about("labels of the trial", example=["baseline"])]
    note: Annotated[str, NOTE] = ""
    worker: Annotated[str | None, _TRIAL_WORKER]
    seq: Annotated[int, SEQ]
    created_at: Annotated[datetime, about("in UTC")]
    started_at: Annotated[datetime | None, about("start of the first attempt, in UTC")]
    finished_at: Annotated[datetime | None, about("in UTC; null: it is not finished")]
    last_activity_at: Annotated[datetime, about("when it last recorded something or changed its state, in UTC")]


class TrialSummary(Trial):
    """A trial in a list, with its course in short."""

    sparkline: Annotated[
        Curve,
        about(
            "at most 30 values, evenly over its evaluated steps, with the first, the best and the last; empty if an "
            "earlier version recorded it"
        ),
    ]
    test_value: Annotated[
        float | None,
        about(
            "the study's metric on the test examples, at the last step at which they were evaluated; without a metric, "
            "the loss; null: they were not",
            example=0.204,
        ),
    ]
    test_value_at_best: Annotated[
        float | None, about("the same as of the best step: the one to report beside `best_value`", example=0.192)
    ]


class TrialProgress(Schema):
    """How far a running trial is."""

    id: Annotated[UUID, about("identifies the trial in paths of the API")]
    number: Annotated[int, about("unique in its study, from 0", example=3)]
    step: Annotated[int, about("recorded outer steps", unit="outer steps", example=120)]
    n_steps: Annotated[int, about("outer steps in all, with extensions", unit="outer steps", example=500)]
    worker: Annotated[str | None, _TRIAL_WORKER]
    steps_per_second: Annotated[float | None, _PACE] = None
    eta_seconds: Annotated[float | None, _ETA] = None


class TrialSort(StrEnum):
    """What a list of trials is sorted by. Trials without a value come last."""

    number = "number"
    state = "state"
    step = "step"
    best_value = "best_value"
    seconds = "seconds"


class TrialPage(Schema):
    """Some trials of a study."""

    items: Annotated[tuple[TrialSummary, ...], about("at most as many as `limit`, fewer if they are large")]
    next_cursor: Annotated[str | None, CURSOR] = None
