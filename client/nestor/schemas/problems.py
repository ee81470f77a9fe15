"""What to tune: a problem, and the submission of a trial."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, cast
from uuid import UUID

from pydantic import ConfigDict, Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from nestor.errors import CurvatureNotDistributed
from nestor.options.base import Best, Flag, Fraction, Positive, Value, Whole, about
from nestor.options.config import ConfigFields, CrossChecks, part_for_one_device
from nestor.options.evaluation import Folds
from nestor.options.mistakes.sentences import violation
from nestor.options.presets import HyperparameterPreset, L2Preset, MLPPreset
from nestor.schemas.base import Attributes, Name, Note, Priority, Schema, Tags
from nestor.schemas.steps import MAX_PREDICTIONS
from nestor.schemas.storable import MAX_ATTRIBUTES_BYTES


class Preset(Schema):
    """A problem that the worker builds by itself: no code and no data cross the wire."""

    model: Annotated[MLPPreset, about("the architecture")] = MLPPreset()
    dataset: Annotated[Literal["digits"], about("1,797 handwritten digits of 8×8 pixels")] = "digits"
    train_size: Annotated[Whole, about("training examples", ge=10, le=1_500)] = 1_000
    val_size: Annotated[Whole, about("validation examples", ge=10, le=700)] = 300
    label_noise: Annotated[Fraction, about("fraction of training labels that are moved to the next class")] = 0.0
    hyperparameters: Annotated[
        tuple[HyperparameterPreset, ...],
        about("the kinds of hyperparameters, each once, or once for each part of the model"),
        Field(min_length=1, max_length=8),
    ] = (L2Preset(),)
    seed: Annotated[
        Whole | None,
        about("of the split, the label noise and the initial weights; null: the trial's", ge=0, lt=2**63, example=0),
    ] = None

    @model_validator(mode="after")
    def _fits(self) -> Preset:
        if self.train_size + self.val_size > 1_700:
            raise ValueError(
                "digits has 1,797 examples: train_size + val_size may be at most 1,700, and the remaining examples are "
                "the test set"
            )
        for part in (part for kind in self.hyperparameters for part in getattr(kind, "only", ())):
            if not any(f"{name}.".startswith(f"{part.rstrip('.')}.") for name in self.model.parameters):
                raise ValueError(f"no parameter begins with {part!r}: they are {', '.join(self.model.parameters)}")
        kinds = [(kind.tag, getattr(kind, "only", ())) for kind in self.hyperparameters]
        if len(set(kinds)) != len(kinds):
            raise ValueError("each kind of hyperparameters may occur only once, or once for each part (only)")
        return self


class PresetProblem(Schema):
    """A problem that every worker can build by itself."""

    preset: Annotated[Preset, about("which model, data and hyperparameters")]


class ProgramProblem(Schema):
    """A problem that was exported and uploaded."""

    program: Annotated[UUID, about("one of your programs")]
    dataset: Annotated[UUID, about("one of your data sets, with the columns that the program reads")]


_OBJECT_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


class EntryPointProblem(Schema):
    """A problem that a package on the workers builds: code that their operator installed."""

    entry_point: Annotated[
        str,
        about(
            "module and function as the package registers them, such as package:factory", example="nestor_moons:moons"
        ),
        Field(max_length=200, json_schema_extra={"pattern": f"^{_OBJECT_REFERENCE.pattern}$"}),
    ]
    params: Annotated[dict[str, Any], about("arguments of the function, by name", example={"width": 8})] = {}
    seed: Annotated[
        Whole | None,
        about("what its parameter `seed` gets if params has none; null: the trial's", ge=0, lt=2**63, example=0),
    ] = None

    @field_validator("entry_point")
    @classmethod
    def _is_a_reference(cls, entry_point: str) -> str:
        if not _OBJECT_REFERENCE.fullmatch(entry_point):
            raise ValueError("write the module and the function, such as package:factory")
        return entry_point


def _kind_of_problem(value: Any) -> str | None:
    """Which alternative is meant, so that only its mistakes are reported."""
    given: dict[Any, Any] = cast(dict[Any, Any], value) if isinstance(value, dict) else getattr(value, "__dict__", {})
    if "preset" in given:
        return "PresetProblem"
    if "entry_point" in given or "params" in given:
        return "EntryPointProblem"
    return "ProgramProblem" if "program" in given or "dataset" in given else None


AnyProblem = Annotated[
    Annotated[PresetProblem, Tag("PresetProblem")]
    | Annotated[ProgramProblem, Tag("ProgramProblem")]
    | Annotated[EntryPointProblem, Tag("EntryPointProblem")],
    Discriminator(
        _kind_of_problem,
        custom_error_type="problem",
        custom_error_message='it must be {"preset": …}, {"program": …, "dataset": …} or {"entry_point": …}',
    ),
]


class Nudge(Value):
    """A random change of the hyperparameters that a trial starts from, as a function of its seed."""

    size: Annotated[
        Positive, about("standard deviation of the change of an entry, before the transform", example=0.1)
    ] = 0.1
    number: Annotated[
        Whole | None,
        about(
            "which of the changes is added; null: none, and the last step of a trial under fixed hyperparameters "
            "records what the hypergradient of `response.measured` predicts for each of them",
            ge=0,
            lt=MAX_PREDICTIONS,
            example=3,
        ),
    ] = None


class WarmStart(Value):
    """Begin with what a trial has reached, instead of at the problem's initial values.

    Steps, optimizers, batches and random draws begin anew: to go on with a trial itself, extend it.
    """

    trial: Annotated[UUID, about("one of your trials, in any study")]
    step: Annotated[
        Annotated[Whole, Field(ge=0)] | Best | None,
        about(
            'whose state is taken; "best": of the trial\'s best step; null: the newest that was kept', example="best"
        ),
    ] = None
    weights: Annotated[
        Flag, about("take weights and buffers, from a checkpoint; false: hyperparameters alone, from a snapshot")
    ] = True
    nudge: Annotated[
        Nudge | None,
        about("change the hyperparameters, and train under these; it needs the response Frozen; null: take them as is"),
    ] = None


class _OfProblem(Value):
    """What comes before a configuration, so that the configuration's checks can read it."""

    problem: Annotated[AnyProblem, about("what to tune: a preset, a program with its data set, or an entry point")]


class TrialSpec(ConfigFields, _OfProblem):
    """A tuning job as it was submitted and is stored."""

    warm_start: Annotated[WarmStart | None, about("begin with what another trial reached")] = None
    priority: Annotated[Priority, about("trials of higher priority start first; above 0 requires an admin token")] = 0
    devices_per_trial: Annotated[
        Whole, Field(ge=1, le=1024), about("devices that each take their part of every batch")
    ] = 1
    timeout: Annotated[
        Positive | None,
        about(
            "it ends after the step in which it has trained for so long, pauses not counted",
            unit="seconds",
            example=3600,
        ),
    ] = None
    user_attrs: Annotated[
        dict[str, Any], about("stored with the trial; Nestor does not read them", example={"owner": "ada"})
    ] = {}
    tags: Annotated[tuple[Name, ...], about("labels of the trial", example=["baseline"])] = ()


_SMALL_TRIAL: dict[str, Any] = {
    "problem": {
        "preset": {"model": {"hidden": [32]}, "hyperparameters": [{"kind": "l2", "per": "weight"}], "train_size": 1000}
    },
    "n_steps": 30,
    "inner": {"optimizer": "adam", "lr": 0.001},
    "response": {
        "kind": "implicit",
        "curvature": {"kind": "gauss_newton"},
        "solver": {"kind": "neumann", "terms": 3},
    },
    "tags": ["baseline"],
}


class TrialCreate(TrialSpec, CrossChecks):
    """The submission of a tuning job."""

    model_config = ConfigDict(json_schema_extra={"examples": [_SMALL_TRIAL]})

    user_attrs: Annotated[
        Attributes,
        about(
            f"stored with the trial, up to {MAX_ATTRIBUTES_BYTES:,} bytes; Nestor does not read them",
            example={"owner": "ada"},
        ),
    ] = {}
    tags: Annotated[Tags, about("labels of the trial", example=["baseline"])] = ()
    note: Annotated[Note, about("text in Markdown, up to 65,536 characters; empty: none")] = ""

    @field_validator("folds")
    @classmethod
    def _keeps_positions(cls, folds: Folds | None, info: ValidationInfo) -> Folds | None:
        problem = info.data.get("problem")
        tuned = problem.preset.hyperparameters if isinstance(problem, PresetProblem) else ()
        if folds and (kinds := sorted(kind.tag for kind in tuned if kind.by_position)):
            raise ValueError(
                f"{kinds[0]} has an entry for each training example, and does not support folds; remove one of them"
            )
        return folds

    @field_validator("warm_start")
    @classmethod
    def _nudges_what_stays(cls, start: WarmStart | None, info: ValidationInfo) -> WarmStart | None:
        response = info.data.get("response")
        if start is not None and start.nudge is not None and response is not None and response.tunes:
            raise ValueError(
                "a nudge is for training under fixed hyperparameters; pass response=Frozen(), or leave it out"
            )
        return start

    @field_validator("devices_per_trial")
    @classmethod
    def _fits_the_devices(cls, devices: int, info: ValidationInfo) -> int:
        response = info.data.get("response")
        if response is not None and (part := part_for_one_device(response, devices)) is not None:
            raise violation(CurvatureNotDistributed, curvature=type(part).__name__, devices=devices)
        return devices
