"""Learning-rate schedules as pure functions of the number of the update, without state."""

from __future__ import annotations

import abc
import math

from nestor import options
from nestor_engine.implementations import Implementation


class Schedule(options.Schedule, Implementation, abc.ABC):
    """A factor of the learning rate, with a linear warm-up over `warmup` updates."""

    def factor(self, k: int) -> float:
        """The factor of update number `k`; the first update has k = 0."""
        return (k + 1) / self.warmup if k < self.warmup else self.after(k - self.warmup)

    @abc.abstractmethod
    def after(self, k: int) -> float:
        """The factor of update number `k` after the warm-up."""


class Warmup(options.Warmup, Schedule):
    """The full learning rate after the warm-up."""

    def after(self, k: int) -> float:
        """Always 1."""
        del k
        return 1.0


class StepDecay(options.StepDecay, Schedule):
    """Multiplied by `gamma` every `every` updates."""

    def after(self, k: int) -> float:
        """gamma ** (k // every)."""
        return self.gamma ** (k // self.every)


class LinearDecay(options.LinearDecay, Schedule):
    """Falls linearly to `final` over `steps` updates, and stays there."""

    def after(self, k: int) -> float:
        """1 at k = 0, and `final` from k = `steps` on."""
        return 1 + (self.final - 1) * min(k / self.steps, 1.0)


class CosineDecay(options.CosineDecay, Schedule):
    """Falls to `final` over `steps` updates along half a cosine [1], without restarts, and stays there.

    [1] Loshchilov and Hutter (2017), SGDR: stochastic gradient descent with warm restarts.
    """

    def after(self, k: int) -> float:
        """1 at k = 0, and `final` from k = `steps` on."""
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * min(k / self.steps, 1.0))) / 2
