"""Studies, trials, and what they record."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import ValidationInfo, field_validator

from nestor.errors import LossMaximized
from nestor.options.base import Flag, about
from nestor.options.mistakes.sentences import violation
from nestor.program_format import EntryNames
from nestor.schemas.base import Count, Name, Note, Priority, Schema
from nestor.schemas.problems import TrialSpec
from nestor.schemas.steps import TensorSummary
from nestor.schemas.storable import merge_patch

_SEQ = about("number of the trial's newest event when this was read", example=17)
Direction = Literal["minimize", "maximize"]
WhichStep = int | Literal["best", "latest"]  # of which weights are read
_METRIC = about(
    "a metric of the problem, which ranks steps and trials; null: the loss on all validation examples",
    example="accuracy",
)
_CURSOR = about("pass it as `cursor` to get the next page; null: this is the last page", example="IjAxOGYi")
_NOTE = about(
    "text in Markdown, up to 65,536 characters; empty: none", example="Baseline with **one** decay per layer."
)


class StudyCreate(Schema):
    """A study to create."""

    name: Annotated[Name, about("unique among your studies", example="digits-l2")]
    metric: Annotated[Name | None, _METRIC] = None
    direction: Annotated[
        Direction | None,
        about("whether a lower or a higher metric is better; null: minimize"),
    ] = None
    user_attrs: Annotated[
        dict[str, Any], about("stored with the study; Nestor does not read them", example={"owner": "ada"})
    ] = {}
    tags: Annotated[tuple[Name, ...], about("labels of the study", example=["baseline"])] = ()
    note: Annotated[Note, _NOTE] = ""
    load_if_exists: Annotated[Flag, about("if the name is taken, return that study; false: refuse")] = False

    @field_validator("direction")
    @classmethod
    def _maximizes_a_metric(cls, direction: Direction | None, info: ValidationInfo) -> Direction | None:
        if direction == "maximize" and info.data.get("metric", "") is None:
            raise violation(LossMaximized)
        return direction


class Patch(Schema):
    """Changes to a study or a trial: a JSON merge patch (RFC 7396). A field that is left out stays as it is."""

    user_attrs: Annotated[
        dict[str, Any] | None,
        about(
            "merged into the attributes, objects key by key; null in place of a value removes its key",
            example={"owner": "ada"},
        ),
    ] = None
    set_user_attrs: Annotated[
        dict[str, Any],
        about(
            "attributes to set as they are: each replaces the whole value of its key, and null is a value",
            example={"owner": {"name": "ada"}},
        ),
    ] = {}
    tags: Annotated[tuple[Name, ...] | None, about("replaces all tags; null removes them", example=["baseline"])] = None
    note: Annotated[
        Note | None, about("replaces the note, a text in Markdown; null removes it", example="See *run 7*.")
    ] = None

    def apply(self, user_attrs: dict[str, Any], tags: Sequence[str], note: str) -> dict[str, Any]:
        """The attributes, tags and note after the change, by the names of their fields."""
        if "user_attrs" in self.model_fields_set:
            user_attrs = {} if self.user_attrs is None else merge_patch(user_attrs, self.user_attrs)
        tags = (self.tags or ()) if "tags" in self.model_fields_set else tags
        note = (self.note or "") if "note" in self.model_fields_set else note
        return {"user_attrs": user_attrs | self.set_user_attrs, "tags": tuple(tags), "note": note}


class StudyPatch(Patch):
    """Changes to a study: a JSON merge patch (RFC 7396). A field that is left out stays as it is."""

    metric: Annotated[
        Name | None, about("as in a new study; it can change only before the first trial", example="accuracy")
    ] = None
    direction: Annotated[Direction | None, about("as in a new study; it can change only before the first trial")] = None

    def ranking(self) -> dict[str, Any]:
        """The fields of `nestor.ranking.Ranking` that the patch names. A direction of null is the default one."""
        fields = {"metric": self.metric, "direction": self.direction or "minimize"}
        return {name: value for name, value in fields.items() if name in self.model_fields_set}


class TrialPatch(Patch):
    """Changes to a trial, also after its end: a JSON merge patch (RFC 7396). What is left out stays as it is."""


class Study(Schema):
    """A study with a summary of its trials."""

    id: Annotated[UUID, about("identifies the study in paths of the API")]
    name: Annotated[str, about("unique among your studies", example="digits-l2")]
    metric: Annotated[str | None, _METRIC]
    direction: Annotated[Direction, about("whether a lower or a higher metric is better")]
    user_attrs: Annotated[dict[str, Any], about("as its user set them", example={"owner": "ada"})]
    tags: Annotated[tuple[str, ...], about("labels of the study", example=["baseline"])]
    note: Annotated[str, _NOTE] = ""
    created_at: Annotated[datetime, about("in UTC")]
    updated_at: Annotated[datetime, about("last change of its attributes, tags, note or ranking, in UTC")]
    trial_counts: Annotated[
        dict[str, int],
        about(
            "number of trials in each state; states without trials are left out", example={"running": 1, "complete": 4}
        ),
    ]
    best_value: Annotated[
        float | None, about("the best value of any of its trials; null: no step was evaluated", example=0.173)
    ]


class StudyRestore(Schema):
    """How a deleted study comes back."""

    name: Annotated[Name | None, about("a new name; null: the one that it had", example="digits-l2 restored")] = None


class StudyCopy(Schema):
    """What a copy of a study is called."""

    name: Annotated[Name, about("unique among your studies", example="digits-l2 copy")]


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
    """All attempts of a trial."""

    items: Annotated[tuple[Attempt, ...], about("in order of their numbers")]


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
    note: Annotated[str, _NOTE] = ""
    worker: Annotated[str | None, about("the worker that holds it", example="gpu-1:4242")]
    seq: Annotated[int, _SEQ]
    created_at: Annotated[datetime, about("in UTC")]
    started_at: Annotated[datetime | None, about("start of the first attempt, in UTC")]
    finished_at: Annotated[datetime | None, about("in UTC; null: it is not finished")]


class StepColumns(Schema):
    """Steps as columns of equal length, in order of `number`."""

    columns: Annotated[
        dict[str, list[Any]],
        about("values by the name of a step's field", example={"number": [1, 2], "val_loss": [0.9, 0.7]}),
    ]
    seq: Annotated[int, _SEQ]
    next_after: Annotated[
        int | None, about("pass it as `after` to get the steps that follow; null: these are the newest", example=2)
    ] = None


class HyperparameterInfo(Schema):
    """One hyperparameter that a trial tunes."""

    name: Annotated[str, about("with dots, such as augmentation.conv.weight", example="l2.0.weight")]
    shape: Annotated[tuple[int, ...], about("empty for a scalar", example=[128, 64])]
    dtype: Annotated[str, about("such as float32", example="float32")]
    transform: Annotated[
        str,
        about(
            "maps the stored value to the one that the loss reads: identity, exp, sigmoid or softplus", example="exp"
        ),
    ]
    of: Annotated[str | None, about("parameter that all its entries belong to", example="0.weight")] = None
    axes: Annotated[
        tuple[str | tuple[str, ...], ...] | None,
        about(
            "for each dimension, what its positions count, such as example, row or class, or the names of its "
            "positions; null: its entries have no names",
            example=["row", "column"],
        ),
    ] = None
    least: Annotated[
        float | None, about("entries stay at or above it, before the transform; null: no bound", example=-20.0)
    ] = None
    largest: Annotated[
        float | None, about("entries stay at or below it, before the transform; null: no bound", example=5.0)
    ] = None

    def entry_name(self, index: int) -> str:
        """What the entry with this flat index belongs to, such as "example 17" or "0.weight, row 3, column 5"."""
        return EntryNames(self.of, self.axes).name(self.name, self.shape, index)


class Hyperparameters(Schema):
    """What a trial tunes, and of which steps there are values."""

    items: Annotated[tuple[HyperparameterInfo, ...], about("one for each hyperparameter")]
    steps: Annotated[
        tuple[int, ...], about("steps with a snapshot, in order; 0 has the initial values", example=[0, 1, 2, 10])
    ]
    seq: Annotated[int, _SEQ]


class DistributionColumns(Schema):
    """Distributions of one hyperparameter as columns of equal length, in order of `number`. See `Distribution`."""

    number: Annotated[list[int], about("steps; 0 has the initial values", example=[0, 10])]
    quantiles: Annotated[
        list[tuple[float, ...]],
        about(
            "of each step, at 0, 5, 25, 50, 75, 95 and 100 %",
            example=[[-6.0] * 7, [-7.4, -7.2, -6.8, -5.9, -4.8, -4.3, -4.1]],
        ),
    ]
    first: Annotated[list[int], about("bin i of a histogram begins at (first + i) · width", example=[-12, -15])]
    width: Annotated[list[float], about("of the bins of a histogram, powers of two", example=[0.5, 0.5])]
    counts: Annotated[
        list[tuple[int, ...]],
        about("entries in each bin", unit="entries", example=[[100], [30, 20, 0, 10, 0, 10, 30]]),
    ]


FEWEST_POINTS = 2 + 3 * len(TensorSummary.model_fields)  # the ends, and of each column two extremes and its last value
DEFAULT_POINTS, MOST_POINTS = 1_000, 10_000


class HyperparameterSummary(HyperparameterInfo):
    """The course of one hyperparameter, as needed for a plot."""

    columns: Annotated[
        dict[str, list[float | None]],
        about(
            "`number` of the step, and the values of each field of `TensorSummary`, of equal length",
            example={"number": [1, 2], "mean": [-6.0, -5.9], "std": [0.0, 0.4]},
        ),
    ]
    distributions: Annotated[
        DistributionColumns,
        about("of steps at equal distances, and the last; none with a single entry, or of steps of earlier versions"),
    ]
    seq: Annotated[int, _SEQ]
    next_after: Annotated[
        int | None,
        about("pass it as `after` to get the steps that follow; null: these are the newest", example=100_000),
    ] = None

    def followed_by(self, later: HyperparameterSummary) -> HyperparameterSummary:
        """This and the next answer as one."""
        columns = {name: [*values, *later.columns[name]] for name, values in self.columns.items()}
        distributions = DistributionColumns.model_validate(
            {name: [*values, *getattr(later.distributions, name)] for name, values in self.distributions}
        )
        return later.model_copy(update={"columns": columns, "distributions": distributions})


class Curve(Schema):
    """Values at some steps, for a small plot."""

    steps: Annotated[
        tuple[int, ...], about("numbers of the steps, in order", unit="outer steps", example=[1, 5, 10])
    ] = ()
    values: Annotated[
        tuple[float, ...],
        about("the value by which the study ranks, at each of these steps", example=[0.41, 0.22, 0.17]),
    ] = ()


class TrialProgress(Schema):
    """How far a running trial is."""

    id: Annotated[UUID, about("identifies the trial in paths of the API")]
    number: Annotated[int, about("unique in its study, from 0", example=3)]
    step: Annotated[int, about("recorded outer steps", unit="outer steps", example=120)]
    n_steps: Annotated[int, about("outer steps in all, with extensions", unit="outer steps", example=500)]
    steps_per_second: Annotated[float | None, _PACE] = None
    eta_seconds: Annotated[float | None, _ETA] = None


class StudySummary(Study):
    """A study in a list, with what is going on in it."""

    last_activity_at: Annotated[
        datetime, about("when a trial last recorded something or changed its state, or the study was changed, in UTC")
    ]
    best_trial: Annotated[
        int | None, about("number of the trial with the best value; null: no step was evaluated", example=3)
    ]
    verdict: Annotated[Verdict | None, about("of the best trial")]
    sparkline: Annotated[
        Curve,
        about(
            "at most 30 values of the best trial, evenly over its evaluated steps, with the first, the best and the "
            "last; empty if an earlier version recorded the trial"
        ),
    ]
    running: Annotated[TrialProgress | None, about("the newest of its running trials; null: none runs")]
    deleted_at: Annotated[datetime | None, about("in UTC; null: it is not deleted")] = None
    purged_after: Annotated[
        datetime | None, about("when a deleted study can no longer be restored, in UTC; null: it is not deleted")
    ] = None


class StudySort(StrEnum):
    """What a list of studies is sorted by. Studies without a value come last."""

    created_at = "created_at"
    last_activity_at = "last_activity_at"
    by_name = "name"  # members of enumerations have a `name`
    best_value = "best_value"
    trials = "trials"


class TrialSort(StrEnum):
    """What a list of trials is sorted by. Trials without a value come last."""

    number = "number"
    state = "state"
    step = "step"
    best_value = "best_value"
    seconds = "seconds"


class SortOrder(StrEnum):
    """Which way a list is sorted."""

    asc = "asc"
    desc = "desc"


class StudyPage(Schema):
    """Some studies."""

    items: Annotated[tuple[StudySummary, ...], about("at most as many as `limit`, fewer if they are large")]
    next_cursor: Annotated[str | None, _CURSOR] = None


class TrialPage(Schema):
    """Some trials of a study."""

    items: Annotated[tuple[Trial, ...], about("at most as many as `limit`, fewer if they are large")]
    next_cursor: Annotated[str | None, _CURSOR] = None


class EventType(StrEnum):
    """What an event reports."""

    state = "state"
    step = "step"
    snapshot = "snapshot"
    log = "log"
    rewind = "rewind"  # steps after data["step"] are withdrawn
    end = "end"


class Event(Schema):
    """Something that happened to a trial."""

    seq: Annotated[int, about("increases from event to event; `end` repeats the last number", example=17)]
    type: Annotated[EventType, about("what the event reports")]
    data: Annotated[
        dict[str, Any],
        about("for type step, a step; else fields that depend on the type", example={"state": "running"}),
    ]


class EventPage(Schema):
    """The answer to a long poll."""

    items: Annotated[tuple[Event, ...], about("in order; empty if nothing happened while the server waited")]
    next_after: Annotated[int, about("pass it as `after` in the next request", example=17)]
    ended: Annotated[bool, about("whether the trial is finished and no event follows")]


class LogLevel(StrEnum):
    """How urgent a line of a trial's log is; each includes those after it."""

    info = "info"
    warning = "warning"


class LogLine(Schema):
    """A line of a trial's log."""

    seq: Annotated[int, about("its number among the trial's events", example=17)]
    at: Annotated[datetime, about("when it was recorded, in UTC")]
    level: Annotated[str, about("info or warning", example="info")]
    step: Annotated[int, about("the outer step that was taken before", unit="outer steps", example=12)]
    text: Annotated[str, about("one or more sentences", example="Curvature products are taken from a trace now.")]


class LogPage(Schema):
    """Some lines of a trial's log."""

    items: Annotated[tuple[LogLine, ...], about("in order; at most as many as `limit`, fewer if they are large")]
    next_after: Annotated[
        int | None, about("pass it as `after` to get the next page; null: this is the last page", example=17)
    ] = None
