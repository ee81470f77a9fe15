"""What to tune: a problem, and the submission of a trial."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast
from uuid import UUID

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from nestor.schemas.base import Count, Finite, Positive, Priority, Schema, Short, Tagged
from nestor.schemas.methods import Adam, EarlyStopping, Folds, Implicit, Optimizer, Response, RMSprop


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
    folds: Folds | None = None  # whose examples steer in turn; None: the validation data alone steers
    stop_early: EarlyStopping | None = None  # by held-out validation examples; None: after all steps
    evaluate_every: Count = 10  # outer steps between two evaluations on the test set
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    warm_start: WarmStart | None = None
    priority: Priority = 0
    devices_per_trial: Annotated[int, Field(ge=1, le=1024)] = 1  # that each take their part of every batch
    user_attrs: dict[str, Any] = {}

    @field_validator("folds")
    @classmethod
    def _keeps_positions(cls, folds: Folds | None, info: ValidationInfo) -> Folds | None:
        problem = info.data.get("problem")
        tuned = problem.preset.hyperparameters if isinstance(problem, PresetProblem) else ()
        if folds and (kinds := {kind.kind for kind in tuned} & {"example_weights", "label_correction"}):
            raise ValueError(
                f"{min(kinds)} has an entry for each training example, which folds exchange; leave one out"
            )
        return folds


# nestor_engine.Config's
CONFIGURATION = TrialCreate.model_fields.keys() - {
    *("problem", "warm_start", "priority", "devices_per_trial", "user_attrs")
}
