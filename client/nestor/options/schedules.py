"""How a learning rate changes over a run."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Annotated, ClassVar

from nestor.options.base import MAX_STEPS, Count, Fraction, Option, Positive, Whole, about, family, option

_LENGTH = about("updates over which the rate falls", unit="updates")
_FINAL = about("the factor at the end")


@family
class Schedule(Option):
    """A factor on the learning rate, by the number of the update."""

    expected: ClassVar[str] = (
        "one of Nestor's schedules, such as CosineDecay(steps=1000); those of torch.optim change a rate that nobody "
        "could resume"
    )

    _: KW_ONLY
    warmup: Annotated[
        Whole,
        about(
            "the first so many updates rise linearly to the full rate; the schedule begins after them",
            unit="updates",
            ge=0,
            le=MAX_STEPS,
        ),
    ] = 0


@option
class Warmup(Schedule):
    """The full rate after the warm-up."""


@option
class StepDecay(Schedule):
    """Multiplied by `gamma` every `every` updates."""

    every: Annotated[Count, about("updates between two reductions", unit="updates")] = 1000
    gamma: Annotated[Positive, about("factor of each reduction")] = 0.1


@option
class LinearDecay(Schedule):
    """Falls linearly to `final` over `steps` updates, and stays there."""

    steps: Annotated[Count, _LENGTH] = 1000
    final: Annotated[Fraction, _FINAL] = 0.0


@option
class CosineDecay(Schedule):
    """Falls to `final` over `steps` updates along half a cosine [1], without restarts, and stays there.

    [1] Loshchilov and Hutter (2017), SGDR: stochastic gradient descent with warm restarts.
    """

    steps: Annotated[Count, _LENGTH] = 1000
    final: Annotated[Fraction, _FINAL] = 0.0
