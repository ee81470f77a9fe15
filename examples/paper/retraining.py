"""Searches that retrain for every proposal, like Bayesian optimization, on a budget of training gradients.

The slides: "it's common to re-initialize w after changing λ, but this wastes a lot of computational effort".
"""

from __future__ import annotations

import math
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import optuna
import torch
from torch import Tensor

import nestor
from examples.paper.plain import trained

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

Range = tuple[float, float]
Tensors = dict[str, Tensor]
RANDOM = "random search"
SAMPLERS = {
    "TPE": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "Gaussian process": lambda seed: optuna.samplers.GPSampler(seed=seed),
}
SEARCHES = (RANDOM, *SAMPLERS)


@dataclass(frozen=True)
class Found:
    """The result of a method after a number of training gradients: its choice so far, made without test data."""

    gradients: float
    val: dict[str, float]
    test: dict[str, float]


def search(
    problem: nestor.Problem,
    ranges: dict[str, Range],
    *,
    sampler: str,
    inner: nestor.Adam | nestor.SGD,
    n_steps: int,
    budget: int,
    seed: int,
    patience: float = math.inf,
) -> list[Found]:
    """After each training run, the proposal with the lowest validation loss so far.

    Args:
        ranges: hyperparameter → least and largest value, as optimized; every entry of a tensor is searched.
        sampler: one of `SEARCHES`.
        n_steps: training gradients of one training run.
        budget: training gradients of all runs. The sampler's own work is free, which favors the searches.
        patience: total seconds for the sampler's own work; after that it is stopped.
    """
    init = problem.bilevel().hparams
    proposer = _Uniform(init, ranges, seed) if sampler == RANDOM else _Optuna(init, ranges, sampler, seed)
    found: list[Found] = []
    thinking = 0.0
    for k in range(1, budget // n_steps + 1):
        began = time.monotonic()
        try:
            with _at_most(patience - thinking):
                proposed = proposer.ask()
        except TimeoutError:
            break
        thinking += time.monotonic() - began
        metrics = trained(problem, inner, n_steps, hparams=init | proposed, seed=seed)
        proposer.tell(metrics["val"]["loss"])
        now = Found(k * n_steps, metrics["val"], metrics["test"])
        if found and found[-1].val["loss"] < now.val["loss"]:
            now = replace(found[-1], gradients=now.gradients)
        found.append(now)
    return found


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Interrupt the body after `seconds` with a signal: a sampler of many parameters has no other interruption point.

    Raises:
        TimeoutError: The body took longer.
    """

    def interrupt(*_: object) -> None:
        raise TimeoutError

    if math.isinf(seconds):
        yield
        return
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Uniform:
    """Every entry of every tensor, uniformly and independently."""

    def __init__(self, init: Tensors, ranges: dict[str, Range], seed: int) -> None:
        self._init, self._ranges = init, ranges
        self._generator = torch.Generator().manual_seed(seed)

    def ask(self) -> Tensors:
        return {
            name: torch.empty_like(self._init[name]).uniform_(*bounds, generator=self._generator)
            for name, bounds in self._ranges.items()
        }

    def tell(self, value: float) -> None:
        del value


class _Optuna:
    """Every entry of every tensor as a parameter of an Optuna study."""

    def __init__(self, init: Tensors, ranges: dict[str, Range], sampler: str, seed: int) -> None:
        self._init, self._ranges = init, ranges
        self._study = optuna.create_study(sampler=SAMPLERS[sampler](seed))
        self._space: dict[str, optuna.distributions.BaseDistribution] = {
            f"{name}[{i}]": optuna.distributions.FloatDistribution(*bounds)
            for name, bounds in ranges.items()
            for i in range(init[name].numel())
        }

    def ask(self) -> Tensors:
        self._asked = self._study.ask(self._space)
        values, params = {}, self._asked.params  # a copy of all of them
        for name in self._ranges:
            like = self._init[name]
            entries = [params[f"{name}[{i}]"] for i in range(like.numel())]
            values[name] = torch.tensor(entries, dtype=like.dtype).view_as(like)
        return values

    def tell(self, value: float) -> None:
        self._study.tell(self._asked, value)


@dataclass(frozen=True)
class Inside:
    """Tuning inside one training run.

    Attributes:
        inner_steps: training gradients between two outer steps.
        products: curvature products of an outer step on average, from docs/methods.md.
        val: cost of a validation gradient: its number of examples in training batches.
        warmup: training gradients before the first outer step. Far from a minimum, the response of the weights to less
            decay is mostly that they learn faster, and tuning moves too far in that direction.
    """

    response: nestor.Response
    inner_steps: int
    products: float
    val: float
    warmup: int = 0

    def price(self, products: float | None = None) -> float:
        """The cost of an outer step in training gradients.

        The graph for second derivatives and the mixed derivative cost 1 each, and a curvature product costs 2. An
        unrolled step costs 3, because it is repeated and then differentiated.
        """
        products = self.products if products is None else products
        response = 0
        match self.response:
            case nestor.Implicit():
                response = 2 + 2 * products
            case nestor.Hypernetwork():
                response = 1 + 2 * products
            case nestor.Unrolled(steps=steps):
                response = 3 * steps
        return self.inner_steps + self.val + response

    def steps(self, budget: float) -> int:
        """The number of outer steps for a budget of training gradients."""
        return int((budget - self.warmup) / self.price())

    def found(self, trial: nestor.Trial) -> list[Found]:
        """One entry per test evaluation. Validation metrics are means over the steps since the previous evaluation."""
        points, spent, since = [], float(self.warmup), []
        for step in trial.steps:
            spent += self.price(step.products)
            since.append({"loss": step.val_loss, **step.val_metrics})
            if step.test_loss is not None:
                val = {name: sum(s[name] for s in since) / len(since) for name in since[0]}
                points.append(Found(spent, val, {"loss": step.test_loss, **step.test_metrics}))
                since = []
        return points


def at(curves: Sequence[list[Found]], part: str, what: str) -> tuple[list[float], list[float]]:
    """Gradients and means over seeds of curves on equal grids, up to the end of the shortest curve."""
    n = min(map(len, curves))
    xs = [curves[0][k].gradients for k in range(n)]
    return xs, [sum(getattr(curve[k], part)[what] for curve in curves) / len(curves) for k in range(n)]
