"""How a learning rate changes over a run, as a pure function of the update's number: nothing to checkpoint."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass, field

from nestor_engine.errors import ConfigInvalid


@dataclass(frozen=True)
class Schedule(abc.ABC):
    """A factor on the learning rate.

    Attributes:
        warmup: the first so many updates rise linearly to the full rate; the schedule begins after them.
    """

    warmup: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ConfigInvalid(reason=f"{self}: warmup counts updates and may not be negative.")

    def factor(self, k: int) -> float:
        """What the learning rate of update number `k` is multiplied by; the first update has k = 0."""
        return (k + 1) / self.warmup if k < self.warmup else self.after(k - self.warmup)

    @abc.abstractmethod
    def after(self, k: int) -> float:
        """The factor of update number `k` after the warm-up."""


@dataclass(frozen=True)
class Warmup(Schedule):
    """The full rate after the warm-up."""

    def after(self, k: int) -> float:
        del k
        return 1.0


@dataclass(frozen=True)
class StepDecay(Schedule):
    """Multiplied by `gamma` every `every` updates."""

    every: int = 1000
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 1 or not self.gamma > 0:
            raise ConfigInvalid(reason=f"{self}: every must be at least 1 and gamma positive.")

    def after(self, k: int) -> float:
        return self.gamma ** (k // self.every)


@dataclass(frozen=True)
class LinearDecay(Schedule):
    """Falls linearly to `final` over `steps` updates, and stays there."""

    steps: int = 1000
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _falls(self, self.steps, self.final)

    def after(self, k: int) -> float:
        return 1 + (self.final - 1) * min(k / self.steps, 1.0)


@dataclass(frozen=True)
class CosineDecay(Schedule):
    """Falls to `final` over `steps` updates along half a cosine [1], without restarts, and stays there.

    [1] Loshchilov and Hutter (2017), SGDR: stochastic gradient descent with warm restarts.
    """

    steps: int = 1000
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _falls(self, self.steps, self.final)

    def after(self, k: int) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * min(k / self.steps, 1.0))) / 2


def _falls(schedule: Schedule, steps: int, final: float) -> None:
    if steps < 1 or not 0 <= final <= 1:
        raise ConfigInvalid(reason=f"{schedule}: steps must be at least 1 and final between 0 and 1.")
