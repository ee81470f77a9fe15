"""Studies, trials, and what they record."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from nestor.schemas.base import Count, Name, Priority, Schema
from nestor.schemas.problems import TrialSpec


class StudyCreate(Schema):
    name: Name
    direction: Literal["minimize"] = "minimize"  # of the validation loss, which hypergradients descend
    user_attrs: dict[str, Any] = {}
    tags: tuple[Name, ...] = ()
    load_if_exists: bool = False


class StudyPatch(Schema):
    user_attrs: dict[str, Any] | None = None  # replaces all of them
    tags: tuple[Name, ...] | None = None


class Study(Schema):
    id: UUID
    name: str
    direction: Literal["minimize"]
    user_attrs: dict[str, Any]
    tags: tuple[str, ...]
    created_at: datetime
    updated_at: datetime
    trial_counts: dict[str, int]  # by state
    best_value: float | None


class State(StrEnum):
    queued = "queued"
    running = "running"
    paused = "paused"
    complete = "complete"
    failed = "failed"
    cancelled = "cancelled"

    @property
    def finished(self) -> bool:
        return self in (State.complete, State.failed, State.cancelled)


class Desired(StrEnum):
    """What a worker is to do with the trial that it holds; it learns so with each renewal of its lease."""

    run = "run"
    stop = "stop"  # keep the result
    cancel = "cancel"
    pause = "pause"
    preempt = "preempt"  # asked by the server, not by a user: write a checkpoint and queue again, for others wait


Action = Literal["stop", "cancel", "pause", "resume", "retry"]  # what a user asks of a trial in one word


class TrialExtend(Schema):
    steps: Count  # outer steps besides those of before


class TrialPriority(Schema):
    priority: Priority


class Attempt(Schema):
    """One lease of a trial by one worker, and why it ended."""

    number: int  # from 1
    worker: str | None
    started_at: datetime
    ended_at: datetime | None = None
    state: State = State.running  # that it left the trial in
    why: str | None = None


class Attempts(Schema):
    items: tuple[Attempt, ...]


class Trial(Schema):
    id: UUID
    study_id: UUID
    number: int  # unique in its study, from 0
    state: State
    desired: Desired
    allowed_actions: tuple[str, ...]  # that would change something now
    spec: TrialSpec
    priority: int  # the spec's, unless it was changed since
    step: int  # outer steps recorded
    n_steps: int
    value: float | None  # held-out loss at the last recorded step; validation loss where nothing is held out
    best_value: float | None
    best_step: int | None
    attempt: int  # leases so far
    restarts: int  # involuntary ends since the newest checkpoint, and
    preemptions: int  # shutdowns of its worker: each has a budget, behind which the trial fails
    error: dict[str, Any] | None  # problem+json
    user_attrs: dict[str, Any]
    worker: str | None
    seq: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class TensorSummary(Schema):
    """One hyperparameter at one step, its entries as optimized."""

    min: float
    max: float
    mean: float
    std: float
    gradient_norm: float
    update_norm: float  # of what the outer step added
    at_bounds: float = 0.0  # share of the entries


class Step(Schema):
    """One outer update of the hyperparameters, with the inner steps before it. Losses are means over examples."""

    number: int  # from 1
    train_loss: float  # on the last inner batch, before its update; hyperparameter terms included
    val_loss: float
    held_out_loss: float | None = None  # on examples that steer nothing; with folds the mean over each one's last
    test_loss: float | None = None
    val_metrics: dict[str, float] = {}
    test_metrics: dict[str, float] = {}
    hypergradient_norm: float
    hypergradient_cosine: float | None = None  # with the step before
    inner_gradient_norm: float | None = None  # the implicit function theorem assumes zero
    inner_gradient_ratio: float | None = None  # against the first inner step's
    outcome: str | None = None  # of the linear solve, as a word
    residual: float | None = None  # ‖b − A q‖ / ‖b‖
    products: int = 0  # curvature products used
    traced: bool = False  # whether they came from a trace: the same bits, at less cost
    alpha: float | None = None  # step size of the Neumann series
    alpha_norm: float | None = None  # times the curvature's norm: a series converges below 2
    hyperparameters: dict[str, TensorSummary] = {}
    seconds: dict[str, float] = {}  # wall time: inner, hypergradient, evaluation; of these, products and data
    warnings: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """What the step is judged by."""
        return self.val_loss if self.held_out_loss is None else self.held_out_loss


class StepColumns(Schema):
    """Steps as columns of equal length, in order of `number`."""

    columns: dict[str, list[Any]]
    seq: int  # the trial's, when this was read


class HyperparameterInfo(Schema):
    name: str
    shape: tuple[int, ...]
    dtype: str
    transform: str  # what turns the stored value into the one that the loss reads: identity, exp, sigmoid, softplus


class Hyperparameters(Schema):
    items: tuple[HyperparameterInfo, ...]
    steps: tuple[int, ...]  # those with a snapshot, in order; 0 holds the initial values
    seq: int


class StudyPage(Schema):
    items: tuple[Study, ...]
    next_cursor: str | None = None


class TrialPage(Schema):
    items: tuple[Trial, ...]
    next_cursor: str | None = None


class EventType(StrEnum):
    state = "state"
    step = "step"
    snapshot = "snapshot"
    log = "log"
    rewind = "rewind"  # steps after data["step"] are withdrawn and will be computed again
    end = "end"


class Event(Schema):
    seq: int
    type: EventType
    data: dict[str, Any]


class EventPage(Schema):
    """A long poll's answer."""

    items: tuple[Event, ...]
    next_after: int
    ended: bool
