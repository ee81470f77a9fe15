"""How to tune, as one value."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ValidationInfo, field_validator

from nestor.errors import (
    CurvatureNotDistributed,
    HparamsUnused,
    InnerRateMissing,
    OptionGivenTwice,
    OptionTypeWrong,
    SquaredGradientsMissing,
    UnrollTooLong,
    ValidationTrains,
    shown,
)
from nestor.options.base import MAX_STEPS, Count, Flag, Option, Positive, Value, Whole, about
from nestor.options.evaluation import EarlyStopping, Folds
from nestor.options.mistakes.sentences import inside, violation
from nestor.options.optimizers import Adam, Optimizer
from nestor.options.responses import Implicit, Response
from nestor.options.schedules import LinearDecay
from nestor.options.solvers import Preconditioner

Function = TypeVar("Function", bound=Callable[..., Any])
# By transform: the size of the steps that hyperparameters need. A logarithm or logit has to travel over units; entries
# that are used as they are, such as weights of a network, are smaller.
AUTO_SCALES = {"exp": 1.0, "sigmoid": 1.0, "softplus": 1.0, "identity": 1 / 30}
_MOVED = MappingProxyType({"stop_early": "it is called early_stopping"})


class ConfigFields(Value):
    """The fields of a configuration, as they are stored: not checked against one another."""

    former: ClassVar[Mapping[str, str]] = _MOVED

    n_steps: Annotated[
        Count, about("outer steps in all, each one update of the hyperparameters", unit="outer steps", example=300)
    ]
    inner_steps: Annotated[Count, about("inner steps between two outer steps", unit="inner steps")] = 5
    batch_size: Annotated[Count, about("training examples in a batch", unit="examples")] = 128
    val_batch_size: Annotated[
        Count, about("at most so many validation examples steer one outer step", unit="examples")
    ] = 1000
    inner: Annotated[Optimizer, about("trains the weights")] = Adam()
    outer: Annotated[Optimizer, about("moves the hyperparameters along the hypergradient")] = Adam(
        "auto",
        eps=1e-12,  # hypergradients of single weights are shorter than the usual 1e-8
    )
    outer_lr: Annotated[
        dict[str, Positive],
        about(
            "learning rates in place of the outer optimizer's, by hyperparameter or by its name's first parts",
            example={"l2": 0.1},
        ),
    ] = {}
    autocast: Annotated[
        Literal["bfloat16"] | None,
        about("precision of the inner forward passes; the hypergradient keeps that of the weights"),
    ] = None
    response: Annotated[Response, about("how the hypergradient comes about")] = Implicit()
    trace: Annotated[
        Flag | None,
        about("take curvature products from a graph that is traced once, with the same bits; null: as soon as it pays"),
    ] = None
    warmup_steps: Annotated[
        Whole, about("inner steps before the first outer step", unit="inner steps", ge=0, le=MAX_STEPS)
    ] = 0
    train_on: Annotated[
        Literal["train", "train+val"],
        about(
            "which examples train the weights; those of the validation data can train only under fixed "
            "hyperparameters (Frozen), and get the largest weight of a training example, where these have weights"
        ),
    ] = "train"
    folds: Annotated[
        Folds | None, about("let all examples take turns in steering; null: the validation data alone steers")
    ] = None
    early_stopping: Annotated[
        EarlyStopping | None,
        about("hold out validation examples, and end when their loss no longer improves; null: after n_steps"),
    ] = None
    evaluate_every: Annotated[
        Count,
        about(
            "outer steps between two evaluations on all validation examples and on the test set; the last step is "
            "always evaluated, and with early stopping each step is, on the held-out examples",
            unit="outer steps",
        ),
    ] = 10
    seed: Annotated[Whole, about("of batches and of all random draws", ge=0, lt=2**63)] = 0


class CrossChecks(BaseModel):
    """What the fields of a configuration say together, for `Config` and for a submission."""

    @field_validator("inner", "outer", "response", "folds", "early_stopping", check_fields=False)
    @classmethod
    def _check_parts(cls, value: Option | None) -> Option | None:
        for part in value.parts() if value is not None else ():
            try:
                part.check()
            except ValueError as error:
                raise inside(type(part).__name__, error) from None
        return value

    @field_validator("inner", check_fields=False)
    @classmethod
    def _has_a_rate(cls, inner: Optimizer) -> Optimizer:
        if inner.lr == "auto":
            raise violation(InnerRateMissing)
        return inner

    @field_validator("response", check_fields=False)
    @classmethod
    def _fits_the_inner_loop(cls, response: Response, info: ValidationInfo) -> Response:
        inner, inner_steps = info.data.get("inner"), info.data.get("inner_steps")
        if inner_steps is not None and response.unrolls > inner_steps:
            raise violation(UnrollTooLong, inner_steps=inner_steps)
        for part in response.parts():
            needed = part.needs_optimizer_state if isinstance(part, Preconditioner) else frozenset[str]()
            if inner is not None and not needed <= inner.keeps_state:
                raise violation(SquaredGradientsMissing, preconditioner=type(part).__name__)
        return response

    @field_validator("train_on", check_fields=False)
    @classmethod
    def _steers_with_other_examples(cls, train_on: str, info: ValidationInfo) -> str:
        response = info.data.get("response")
        if train_on == "train+val" and response is not None and response.tunes:
            raise violation(ValidationTrains)
        return train_on

    @field_validator("folds", check_fields=False)
    @classmethod
    def _trains_on_other_folds(cls, folds: Folds | None, info: ValidationInfo) -> Folds | None:
        if folds is not None and info.data.get("train_on") == "train+val":
            raise ValueError("with folds, all examples train already; leave out train_on or folds")
        return folds


class Config(ConfigFields, CrossChecks):
    """Algorithm 2 of the slides: `warmup_steps` inner steps, then `n_steps` times `inner_steps` and an outer step.

    `nestor.Study.optimize` takes the same options as keywords. `outer_lr={"augmentation": 0.1}` is meant for
    "augmentation.conv.weight", too.
    """

    def has_ended(self, step: int, steps_since_best: int) -> bool:
        """Whether outer step `step` is the last, so many steps after the lowest held-out loss."""
        stopping = self.early_stopping
        return step >= self.n_steps or (stopping is not None and stopping.is_due(step, steps_since_best))

    def outers(self, transforms: Mapping[str, str]) -> dict[str, Any]:
        """The outer optimizer of each hyperparameter.

        Args:
            transforms: hyperparameter → the name of its transform.

        Raises:
            HparamsUnused: `outer_lr` names none of them.
        """
        names = list(transforms)
        meant = {name: [key for key in self.outer_lr if name == key or name.startswith(f"{key}.")] for name in names}
        if unknown := sorted(set(self.outer_lr).difference(*meant.values())):
            raise HparamsUnused(option="outer_lr", name=unknown[0], hparams=names)
        outer = self.outer
        is_auto = outer.lr == "auto"
        if is_auto and outer.schedule is None:
            outer = dataclasses.replace(outer, schedule=LinearDecay(self.n_steps))
        rates = {name: self.auto_rate(transform) for name, transform in transforms.items() if is_auto}
        rates |= {name: self.outer_lr[max(keys, key=len)] for name, keys in meant.items() if keys}
        return {name: dataclasses.replace(outer, lr=rates[name]) if name in rates else outer for name in names}

    def auto_rate(self, transform: str) -> float:
        """The learning rate of the first outer step for `lr="auto"`: 4/√n_steps, at most 0.3, times a scale.

        So a longer training goes farther, about as √n_steps, and in smaller steps. Larger ones are too fast for the
        weights of a short training. docs/usefulness.md has measurements.
        """
        return AUTO_SCALES[transform] * min(0.3, 4 / math.sqrt(self.n_steps))

    def check_devices(self, n: int) -> None:
        """Refuse what `n` processes cannot compute together.

        Raises:
            CurvatureNotDistributed: a part of the response needs whole batches.
        """
        if (part := part_for_one_device(self.response, n)) is not None:
            raise CurvatureNotDistributed(option=f"{n} devices", curvature=type(part).__name__, devices=n)


def merged(config: Config | None, given: Mapping[str, Any]) -> Config:
    """A configuration from one value and from keywords beside it.

    Raises:
        ConfigInvalid: an option is given in both, or has a value that cannot work.
    """
    return Config(**chosen(config, given))


def chosen(config: Config | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were chosen in one value and as keywords beside it; the others have their defaults.

    Raises:
        ConfigInvalid: an option is given in both.
    """
    if config is None:
        return dict(given)
    if not isinstance(config, Config):  # pyright: ignore[reportUnnecessaryIsInstance] a user passed it
        raise OptionTypeWrong(option=f"config={shown(config)}", rule="pass nestor.Config(n_steps=300, …)")
    fields = {name: getattr(config, name) for name in config.model_fields_set}
    if twice := sorted(fields.keys() & given.keys()):
        first, second = shown(fields[twice[0]]), shown(given[twice[0]])
        raise OptionGivenTwice(option=twice[0], first=f"{first} in config", second=f"{second} as a keyword")
    return {**fields, **given}


def documented(function: Function) -> Function:
    """Tell what the options mean in the docstring of a function that takes them as keywords."""
    lines = [f"{name}: {field.description}." for name, field in Config.model_fields.items()]
    paragraphs = "\n".join(f"            {line}" for line in lines)
    function.__doc__ = (function.__doc__ or "").replace(
        "        Raises:", f"        Options:\n{paragraphs}\n\n        Raises:", 1
    )
    return function


def part_for_one_device(response: Response, n: int) -> Option | None:
    """The part of `response` that `n` devices cannot compute together; None if they can compute all of it."""
    return None if n == 1 else next((part for part in response.parts() if not part.supports_sharding), None)
