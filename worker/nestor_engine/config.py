"""How to tune, as one value; and the same as plain data, for wires and files."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from numbers import Real
from types import UnionType
from typing import Any, Literal

import torch

from nestor_engine.curvature import KFAC, EmpiricalFisher, GaussNewton, Hessian
from nestor_engine.data.folds import EarlyStopping, Folds
from nestor_engine.errors import ConfigInvalid
from nestor_engine.optim.optimizers import INNER_STEPS, SGD, TRAIN_BATCH, VAL_BATCH, Adam, AdamW, Optimizer, RMSprop
from nestor_engine.optim.schedules import CosineDecay, LinearDecay, StepDecay, Warmup
from nestor_engine.responses import DirectOnly, Hypernetwork, Implicit, Response, Unrolled
from nestor_engine.solvers import (
    AdamDiagonal,
    ConjugateGradient,
    Direct,
    Identity,
    Neumann,
    Nystrom,
    NystromSketch,
    PreconditionedCG,
    Richardson,
    WarmStarted,
)
from nestor_engine.solvers.preconditioners import WITHOUT_STATE

_OPTIMIZERS = {cls.__name__.lower(): cls for cls in (SGD, Adam, AdamW, RMSprop)}
_KINDS = {
    re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower(): cls
    for cls in (
        *(Hessian, GaussNewton, EmpiricalFisher, KFAC),
        *(Identity, Neumann, ConjugateGradient, PreconditionedCG, Richardson, Direct, Nystrom, WarmStarted),
        *(NystromSketch, AdamDiagonal),
        *(Implicit, Unrolled, Hypernetwork, DirectOnly),
        *(Warmup, StepDecay, LinearDecay, CosineDecay),
        *(Folds, EarlyStopping),
    )
}
_TAGS: dict[type, tuple[str, str]] = {cls: ("optimizer", tag) for tag, cls in _OPTIMIZERS.items()} | {
    cls: ("kind", tag) for tag, cls in _KINDS.items()
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Algorithm 2 of the slides: `warmup_steps` inner steps, then `n_steps` times N inner steps and an outer one.

    Attributes:
        n_steps: outer steps in all; `outer` must name no other number of steps.
        inner: trains the weights; its `steps` is N, by default 5, on batches of 128.
        outer: moves the hyperparameters along the hypergradient, taken on at most 1,000 validation examples.
        outer_lr: learning rates in place of `outer.lr`, by hyperparameter, or by the first parts of its name:
            "augmentation" is meant for "augmentation.conv.weight", too.
        autocast: run the inner forward passes in this precision; the hypergradient keeps that of the weights.
        response: how the hypergradient comes about.
        trace: take curvature products from a graph that is traced once, at less cost and with the same bits: True
            from the first outer step, False never, None once the steps to come make up for the tracing.
        folds: let all examples take turns in steering; None: the validation data alone steers.
        stop_early: hold out a part of the validation data, and end when its loss no longer improves; None: after
            `n_steps`.
        evaluate_every: outer steps between two evaluations on the test set.
        seed: of batches and of all random draws.
    """

    n_steps: int
    inner: Optimizer = field(default_factory=Adam)
    outer: Optimizer = field(default_factory=RMSprop)
    outer_lr: dict[str, float] = field(default_factory=dict)
    autocast: Literal["bfloat16"] | None = None
    response: Response = field(default_factory=Implicit)
    trace: bool | None = None
    warmup_steps: int = 0
    folds: Folds | None = None
    stop_early: EarlyStopping | None = None
    evaluate_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("n_steps", 1), ("warmup_steps", 0), ("evaluate_every", 1)):
            try:
                count = operator.index(getattr(self, name))
            except TypeError:
                reason = f"{name}={getattr(self, name)!r}: it must be a whole number, at least {least}."
                raise ConfigInvalid(reason=reason) from None
            if count < least:
                raise ConfigInvalid(reason=f"{name}={count}: it must be at least {least}.")
            object.__setattr__(self, name, count)
        for name, kind, remedy in _PARTS:
            if not isinstance(given := getattr(self, name), kind):
                raise ConfigInvalid(reason=f"{name}={given!r}: {remedy}")
        if self.autocast not in (None, "bfloat16"):
            raise ConfigInvalid(reason=f"autocast={self.autocast!r}: choose 'bfloat16', or leave it out.")
        if not isinstance(self.outer_lr, Mapping):
            raise ConfigInvalid(
                reason=f"outer_lr={self.outer_lr!r}: pass learning rates by hyperparameter, such as {{'l2': 0.1}}."
            )
        object.__setattr__(self, "outer_lr", dict(self.outer_lr))
        for name, lr in self.outer_lr.items():
            if not (isinstance(lr, Real) and float(lr) > 0):
                raise ConfigInvalid(reason=f"outer_lr[{name!r}]={lr!r}: the learning rate must be positive.")
        if self.outer.steps not in (None, self.n_steps):  # the form for wires carries n_steps there
            raise ConfigInvalid(
                reason=f"outer={self.outer!r}: its steps={self.outer.steps} contradicts n_steps={self.n_steps}. "
                "n_steps is the number of outer steps. Leave steps out of the outer optimizer."
            )
        # What was left open is filled in here, once, so that a config always says all of it.
        filled = (
            ("inner", {"steps": self.inner.steps or INNER_STEPS, "batch_size": self.inner.batch_size or TRAIN_BATCH}),
            ("outer", {"steps": self.n_steps, "batch_size": self.outer.batch_size or VAL_BATCH}),
        )
        for name, options in filled:
            object.__setattr__(self, name, dataclasses.replace(getattr(self, name), **options))
        if missing := self.response.needs_optimizer_state - self.inner.init(torch.zeros(1)).keys():
            raise ConfigInvalid(reason=WITHOUT_STATE[min(missing)])
        if self.response.unrolls > (self.inner.steps or 0):
            raise ConfigInvalid(
                reason=f"{self.response} goes back further than the {self.inner.steps} inner steps between two outer "
                "steps. Raise the inner optimizer's steps, or unroll fewer."
            )

    def has_ended(self, step: int, steps_since_best: int) -> bool:
        """Whether outer step `step` is the last, `steps_since_best` steps after the lowest held-out loss."""
        return step >= self.n_steps or (self.stop_early is not None and self.stop_early.is_due(step, steps_since_best))

    def expect_devices(self, n: int) -> None:
        """Refuse what `n` processes cannot compute together.

        Raises:
            ConfigInvalid: naming it, and what can be taken instead.
        """
        if n > 1 and not self.response.supports_sharding:
            raise ConfigInvalid(
                reason=f"KFAC draws its factors from whole batches, which {n} devices divide among them. "
                "Use GaussNewton, or another preconditioner, or one device."
            )

    def outers(self, names: Iterable[str]) -> dict[str, Optimizer]:
        """The outer optimizer of each hyperparameter.

        Raises:
            ConfigInvalid: `outer_lr` names none of them.
        """
        meant = {name: [key for key in self.outer_lr if name == key or name.startswith(f"{key}.")] for name in names}
        if unknown := sorted(set(self.outer_lr).difference(*meant.values())):
            raise ConfigInvalid(
                reason=f"outer_lr names {unknown[0]!r}, but the hyperparameters are {', '.join(map(repr, meant))}."
            )
        return {
            name: dataclasses.replace(self.outer, lr=self.outer_lr[max(keys, key=len)]) if keys else self.outer
            for name, keys in meant.items()
        }


_PARTS: tuple[tuple[str, type | UnionType, str], ...] = (
    ("inner", Optimizer, "pass one of Nestor's optimizers, such as Adam(1e-3); those of torch.optim hold parameters."),
    ("outer", Optimizer, "pass one of Nestor's optimizers, such as RMSprop(1e-2)."),
    ("response", Response, "pass a response, such as Implicit(GaussNewton(), Neumann(terms=3)) or Unrolled(steps=5)."),
    ("folds", Folds | None, "pass nestor.Folds(5), or leave it out."),
    ("stop_early", EarlyStopping | None, "pass nestor.EarlyStopping(patience=20), or leave it out."),
)


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
    if not {"optimizer", "kind"} & set(value):
        return dict(value)  # plain data, such as learning rates by name
    options = dict(value)
    cls = _OPTIMIZERS.get(options.pop("optimizer", "")) or _KINDS.get(options.pop("kind", ""))
    if cls is None:
        raise ConfigInvalid(reason=f"{value} names no optimizer, curvature, solver or response of this version.")
    try:
        return cls(**{name: _restored(option) for name, option in options.items()})
    except TypeError as error:
        raise ConfigInvalid(reason=str(error)) from error
