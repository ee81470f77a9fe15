"""The wire: every field that crosses HTTP is named here, once, for server, worker and client alike.

Unknown fields are refused rather than dropped, and numbers must be finite: a misspelt option or a
NaN is an error at the door, not a surprise an hour later.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, cast
from uuid import UUID

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)

API = "/api/v1"
MOST_STEPS = 2**31 - 1  # of a trial
CHUNK_BYTES = 4 * 1024 * 1024  # an upload travels, and a blob is stored, in pieces of this size

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]
TensorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,199}$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=MOST_STEPS)]
Priority = Annotated[int, Field(ge=-1000, le=1000)]  # higher goes first; above 0 takes a token of the scope admin


class Schema(BaseModel):
    """What all schemas share: unknown fields are errors, instances are values."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _by_kind(value: Any) -> Any:
    """Let a choice be written short: "hessian" and {"neumann": {"terms": 3}} for {"kind": "neumann", "terms": 3}."""
    if isinstance(value, str):
        return {"kind": value}
    if isinstance(value, dict) and len(cast(dict[Any, Any], value)) == 1 and "kind" not in value:
        ((kind, options),) = cast(dict[Any, Any], value).items()
        if isinstance(options, dict):
            return {"kind": kind, **cast(dict[Any, Any], options)}
    return cast(Any, value)


Tagged = Field(discriminator="kind")
Short = BeforeValidator(_by_kind)


# --- how to tune: the engine's configuration, as nestor_engine.config describes it -----------------


class ScheduleBase(Schema):
    warmup: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0  # updates over which the rate rises linearly


class Warmup(ScheduleBase):
    kind: Literal["warmup"] = "warmup"


class StepDecay(ScheduleBase):
    kind: Literal["step_decay"] = "step_decay"
    every: Count = 1000
    gamma: Positive = 0.1


class LinearDecay(ScheduleBase):
    kind: Literal["linear_decay"] = "linear_decay"
    steps: Count = 1000
    final: Annotated[float, Field(ge=0, le=1)] = 0.0


class CosineDecay(ScheduleBase):
    kind: Literal["cosine_decay"] = "cosine_decay"
    steps: Count = 1000
    final: Annotated[float, Field(ge=0, le=1)] = 0.0


Schedule = Annotated[Warmup | StepDecay | LinearDecay | CosineDecay, Tagged, Short]


class OptimizerBase(Schema):
    schedule: Schedule | None = None  # a factor on the learning rate, by the number of the update
    clip_norm: Positive | None = None  # gradients longer than this, over all tensors, are shortened to it
    steps: Count | None = None  # inner: steps between two outer steps; outer: outer steps in all
    batch_size: Count | None = None  # inner: training examples; outer: validation examples. None: engine's default


class SGD(OptimizerBase):
    optimizer: Literal["sgd"] = "sgd"
    lr: Positive = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    nesterov: bool = False
    weight_decay: NonNegative = 0.0


class Adam(OptimizerBase):
    optimizer: Literal["adam"] = "adam"
    lr: Positive = 1e-3
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0


class AdamW(OptimizerBase):
    optimizer: Literal["adamw"] = "adamw"
    lr: Positive = 1e-3
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.01


class RMSprop(OptimizerBase):
    optimizer: Literal["rmsprop"] = "rmsprop"
    lr: Positive = 1e-2
    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.99
    eps: Positive = 1e-8
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: NonNegative = 0.0


Optimizer = Annotated[SGD | Adam | AdamW | RMSprop, Field(discriminator="optimizer")]


class Hessian(Schema):
    kind: Literal["hessian"] = "hessian"
    damping: NonNegative = 0.0


class GaussNewton(Schema):
    kind: Literal["gauss_newton"] = "gauss_newton"
    damping: NonNegative = 0.03


class EmpiricalFisher(Schema):
    kind: Literal["empirical_fisher"] = "empirical_fisher"
    damping: NonNegative = 0.03
    per: Literal["batch", "example"] = "batch"


class KFAC(Schema):
    kind: Literal["kfac"] = "kfac"
    damping: NonNegative = 0.03
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.95  # of the factors' running averages
    fisher: Literal["sampled", "exact", "empirical"] = "sampled"


Curvature = Annotated[Hessian | GaussNewton | EmpiricalFisher | KFAC, Tagged, Short]


class Identity(Schema):
    kind: Literal["identity"] = "identity"


class Neumann(Schema):
    kind: Literal["neumann"] = "neumann"
    terms: Annotated[int, Field(ge=0, le=10_000)] = 2
    alpha: Positive | Literal["auto"] = "auto"


class ConjugateGradient(Schema):
    kind: Literal["conjugate_gradient"] = "conjugate_gradient"
    steps: Annotated[int, Field(ge=1, le=10_000)] = 10
    damping: NonNegative = 0.03  # where the curvature has none of its own
    rtol: NonNegative = 1e-6


class NystromSketch(Schema):
    kind: Literal["nystrom_sketch"] = "nystrom_sketch"
    rank: Annotated[int, Field(ge=1, le=10_000)] = 50
    refresh: Count = 10  # outer steps between two sketches


class AdamDiagonal(Schema):
    kind: Literal["adam_diagonal"] = "adam_diagonal"


class PreconditionedCG(Schema):
    kind: Literal["preconditioned_cg"] = "preconditioned_cg"
    steps: Annotated[int, Field(ge=1, le=10_000)] = 4
    preconditioner: Annotated[NystromSketch | KFAC | AdamDiagonal, Tagged, Short] = NystromSketch()
    damping: NonNegative = 0.03  # where the curvature has none of its own
    rtol: NonNegative = 1e-6


class Richardson(Schema):
    kind: Literal["richardson"] = "richardson"
    steps: Annotated[int, Field(ge=1, le=10_000)] = 1
    rate: Annotated[float, Field(gt=0, le=1)] = 0.2
    preconditioner: Annotated[NystromSketch | KFAC | AdamDiagonal, Tagged, Short] = NystromSketch(rank=20, refresh=20)


class Direct(Schema):
    kind: Literal["direct"] = "direct"


class Nystrom(Schema):
    kind: Literal["nystrom"] = "nystrom"
    rank: Annotated[int, Field(ge=1, le=10_000)] = 20
    rho: Positive = 0.01


ColdSolver = Annotated[
    Identity | Neumann | ConjugateGradient | PreconditionedCG | Richardson | Direct | Nystrom, Tagged, Short
]


class WarmStarted(Schema):
    kind: Literal["warm_started"] = "warm_started"
    solver: ColdSolver = Neumann()


Solver = Annotated[
    Identity | Neumann | ConjugateGradient | PreconditionedCG | Richardson | Direct | Nystrom | WarmStarted,
    Tagged,
    Short,
]


class Implicit(Schema):
    kind: Literal["implicit"] = "implicit"
    curvature: Curvature = GaussNewton()
    solver: Solver = WarmStarted()


class Unrolled(Schema):
    kind: Literal["unrolled"] = "unrolled"
    steps: Annotated[int, Field(ge=1, le=10_000)] = 5


class Hypernetwork(Schema):
    kind: Literal["hypernetwork"] = "hypernetwork"
    rank: Annotated[int, Field(ge=1, le=10_000)] = 8
    scale: Positive = 0.1  # of the perturbations, in units of the hyperparameters as they are optimised
    steps: Annotated[int, Field(ge=1, le=10_000)] = 5
    lr: Annotated[float, Field(gt=0, lt=2)] = 1.0  # relative to 1 / the curvature's norm
    damping: NonNegative = 0.03


class DirectOnly(Schema):
    kind: Literal["direct_only"] = "direct_only"


Response = Annotated[Implicit | Unrolled | Hypernetwork | DirectOnly, Tagged, Short]


# --- what to tune ---------------------------------------------------------------------------------


class L2Preset(Schema):
    kind: Literal["l2"] = "l2"
    per: Literal["global", "tensor", "weight"] = "weight"
    init: Finite = -6.0  # log of the decay


class L1Preset(Schema):
    kind: Literal["l1"] = "l1"
    per: Literal["global", "tensor", "weight"] = "weight"
    init: Finite = -6.0  # log of the decay


class LabelCorrectionPreset(Schema):
    kind: Literal["label_correction"] = "label_correction"
    strength: Annotated[float, Field(gt=0, le=50)] = 4.0  # initial logit of the label that was given


class ExampleWeightsPreset(Schema):
    kind: Literal["example_weights"] = "example_weights"
    init: Finite = 0.0  # before the transform


class MLPPreset(Schema):
    kind: Literal["mlp"] = "mlp"
    hidden: Annotated[tuple[Annotated[int, Field(ge=1, le=16_384)], ...], Field(min_length=1, max_length=16)] = (128,)


class Preset(Schema):
    """A problem that the worker builds by itself: no code and no data cross the wire."""

    model: MLPPreset = MLPPreset()
    dataset: Literal["digits"] = "digits"
    train_size: Annotated[int, Field(ge=10, le=1_500)] = 1_000
    val_size: Annotated[int, Field(ge=10, le=700)] = 300
    label_noise: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of training labels that are moved to the next class
    hyperparameters: Annotated[
        tuple[Annotated[L2Preset | L1Preset | ExampleWeightsPreset | LabelCorrectionPreset, Tagged, Short], ...],
        Field(min_length=1, max_length=4),
    ] = (L2Preset(),)

    @model_validator(mode="after")
    def _fits(self) -> Preset:
        if self.train_size + self.val_size > 1_700:
            raise ValueError(
                "digits has 1,797 examples: train_size + val_size may be at most 1,700, the rest is the test set"
            )
        kinds = [h.kind for h in self.hyperparameters]
        if len(set(kinds)) != len(kinds):
            raise ValueError("each kind of hyperparameter may be named once")
        return self


class PresetProblem(Schema):
    preset: Preset


class ProgramProblem(Schema):
    program: UUID
    dataset: UUID


def _kind_of_problem(value: Any) -> str | None:
    """Which alternative is meant, so that only its mistakes are reported."""
    given: dict[Any, Any] = cast(dict[Any, Any], value) if isinstance(value, dict) else getattr(value, "__dict__", {})
    if "preset" in given:
        return "PresetProblem"
    return "ProgramProblem" if "program" in given or "dataset" in given else None


AnyProblem = Annotated[
    Annotated[PresetProblem, Tag("PresetProblem")] | Annotated[ProgramProblem, Tag("ProgramProblem")],
    Discriminator(
        _kind_of_problem,
        custom_error_type="problem",
        custom_error_message='Input should be {"preset": …} or {"program": …, "dataset": …}',
    ),
]


class WarmStart(Schema):
    """Begin with what a trial has reached, instead of at the problem's initial values.

    Steps, optimizers, batches and random draws begin anew: to go on with a trial itself, extend it.
    """

    trial: UUID  # of yours, in any study
    step: Annotated[int, Field(ge=0)] | None = None  # by default the newest that was kept
    weights: bool = True  # and buffers, from a checkpoint; else only the hyperparameters, from a snapshot


class TrialCreate(Schema):
    """The submission of a tuning job."""

    problem: AnyProblem
    inner: Optimizer = Adam()
    outer: Optimizer = RMSprop()
    outer_lr: dict[str, Positive] = {}  # hyperparameter, or the first parts of its name → learning rate of its own
    autocast: Literal["bfloat16"] | None = None  # precision of the inner forward passes
    response: Response = Implicit()
    trace: bool | None = None  # take curvature products from a traced graph; None: once that pays
    warmup_steps: Annotated[int, Field(ge=0)] = 0  # inner steps before the first outer step
    evaluate_every: Count = 10  # outer steps between two evaluations on the test set
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    warm_start: WarmStart | None = None
    priority: Priority = 0
    devices_per_trial: Annotated[int, Field(ge=1, le=1024)] = 1  # that each take their part of every batch
    user_attrs: dict[str, Any] = {}


# nestor_engine.Config's
CONFIGURATION = TrialCreate.model_fields.keys() - {
    *("problem", "warm_start", "priority", "devices_per_trial", "user_attrs")
}


# --- studies and trials ---------------------------------------------------------------------------


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
    """What is wanted of a trial; the worker learns it with each renewal of its lease."""

    run = "run"
    stop = "stop"  # keep the result
    cancel = "cancel"
    pause = "pause"
    make_way = "make_way"  # the server's wish, not the user's: write a checkpoint and queue again, for others wait


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
    spec: TrialCreate
    priority: int  # the spec's, unless it was changed since
    step: int  # outer steps recorded
    n_steps: int
    value: float | None  # validation loss at the last recorded step
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
    """One hyperparameter at one step, its entries as optimised."""

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


# --- blobs, programs, data sets -------------------------------------------------------------------


class BlobCreate(Schema):
    digest: Digest
    size: Annotated[int, Field(ge=0)]


class Upload(Schema):
    id: UUID | None  # None: the blob is already there
    digest: Digest
    offset: int
    size: int


class ProgramCreate(Schema):
    graphs: Digest  # JSON, see nestor_engine.program
    tensors: Digest  # safetensors: initial parameters, buffers and hyperparameters, and constants


class Program(ProgramCreate):
    id: UUID
    torch: str  # "2.13": the minor version that it was exported with
    created_at: datetime


class DatasetCreate(Schema):
    """Splits, each a safetensors blob of equally long columns."""

    train: Digest
    val: Digest
    test: Digest | None = None


class Dataset(DatasetCreate):
    id: UUID
    sizes: dict[str, int]  # examples in each split
    created_at: datetime


# --- who, and with what ---------------------------------------------------------------------------


class Scope(StrEnum):
    read = "read"
    write = "write"  # includes read
    admin = "admin"  # includes write


class TokenCreate(Schema):
    name: Name = "token"
    scope: Scope = Scope.write
    expires_in_days: Annotated[int, Field(ge=1, le=3650)] | None = None


class Token(Schema):
    id: UUID
    name: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None


class TokenCreated(Token):
    token: str  # shown this once; the server keeps its SHA-256 only


class TokenPage(Schema):
    items: tuple[Token, ...]
    next_cursor: str | None = None


class SessionCreate(Schema):
    """A token, exchanged for the cookie that a browser keeps."""

    token: Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Me(Schema):
    user: str
    scope: Scope


class Version(Schema):
    nestor: str
    api: str


class Health(Schema):
    status: Literal["ok", "unavailable"]
    checks: dict[str, str]
