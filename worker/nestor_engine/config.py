"""How to tune, as one value; and the same as plain data, for wires and files."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from nestor_engine.curvature import EmpiricalFisher, GaussNewton, Hessian
from nestor_engine.errors import ConfigInvalid
from nestor_engine.optimizers import SGD, Adam, Optimizer, RMSprop
from nestor_engine.responses import DirectOnly, Implicit, Response, Unrolled
from nestor_engine.solvers import (
    ConjugateGradient,
    Direct,
    Identity,
    Neumann,
    Nystrom,
    NystromSketch,
    PreconditionedCG,
    WarmStarted,
)

INNER_STEPS = 5
TRAIN_BATCH = 128
VAL_BATCH = 1000

_OPTIMIZERS = {cls.__name__.lower(): cls for cls in (SGD, Adam, RMSprop)}
_KINDS = {
    re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower(): cls
    for cls in (
        *(Hessian, GaussNewton, EmpiricalFisher),
        *(Identity, Neumann, ConjugateGradient, PreconditionedCG, NystromSketch, Direct, Nystrom, WarmStarted),
        *(Implicit, Unrolled, DirectOnly),
    )
}
_TAGS: dict[type, tuple[str, str]] = {cls: ("optimizer", tag) for tag, cls in _OPTIMIZERS.items()} | {
    cls: ("kind", tag) for tag, cls in _KINDS.items()
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Algorithm 2 of the slides: `warmup_steps` inner steps, then `n_steps` times N inner steps and an outer one.

    Attributes:
        n_steps: outer steps in all.
        inner: trains the weights; its `steps` is N, by default 5, on batches of 128.
        outer: moves the hyperparameters along the hypergradient, taken on at most 1,000 validation examples.
        response: how the hypergradient comes about.
        evaluate_every: outer steps between two evaluations on the test set.
        seed: of batches and of all random draws.
    """

    n_steps: int
    inner: Optimizer = field(default_factory=Adam)
    outer: Optimizer = field(default_factory=RMSprop)
    response: Response = field(default_factory=Implicit)
    warmup_steps: int = 0
    evaluate_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("n_steps", 1), ("warmup_steps", 0), ("evaluate_every", 1)):
            if getattr(self, name) < least:
                raise ConfigInvalid(reason=f"{name}={getattr(self, name)}: it must be at least {least}.")
        # What was left open is filled in here, once, so that a config always says all of it.
        filled = (
            ("inner", {"steps": self.inner.steps or INNER_STEPS, "batch_size": self.inner.batch_size or TRAIN_BATCH}),
            ("outer", {"steps": self.n_steps, "batch_size": self.outer.batch_size or VAL_BATCH}),
        )
        for name, options in filled:
            object.__setattr__(self, name, dataclasses.replace(getattr(self, name), **options))


def describe(config: Config) -> dict[str, Any]:
    """`config` as JSON can carry it: classes as tags, the number of outer steps as the outer optimizer's."""
    return {f.name: _described(getattr(config, f.name)) for f in fields(config) if f.name != "n_steps"}


def restore(description: dict[str, Any]) -> Config:
    """The config that `describe` described.

    Raises:
        ConfigInvalid: an unknown class or option, or no number of outer steps.
    """
    options = {name: _restored(value) for name, value in description.items()}
    outer = options.get("outer")
    if not isinstance(outer, Optimizer) or not outer.steps:
        raise ConfigInvalid(reason="outer.steps is missing: say how many outer steps to take.")
    try:
        return Config(n_steps=outer.steps, **options)
    except TypeError as error:
        raise ConfigInvalid(reason=str(error)) from error


def _described(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        tag, name = _TAGS[type(value)]
        return {tag: name} | {f.name: _described(getattr(value, f.name)) for f in fields(value)}
    return list(value) if isinstance(value, tuple) else value


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, dict):
        return value
    options = dict(value)
    cls = _OPTIMIZERS.get(options.pop("optimizer", "")) or _KINDS.get(options.pop("kind", ""))
    if cls is None:
        raise ConfigInvalid(reason=f"{value} names no optimizer, curvature, solver or response of this version.")
    try:
        return cls(**{name: _restored(option) for name, option in options.items()})
    except TypeError as error:
        raise ConfigInvalid(reason=str(error)) from error
